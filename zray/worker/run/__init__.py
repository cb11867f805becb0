"""One run of user code: arguments in, results out, streams, maps, cancellation."""
