"""Values of user code as bytes: what is pickled how, and what to say when it cannot be."""
