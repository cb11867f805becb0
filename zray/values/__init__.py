"""Values of user code as bytes: how they are pickled, and the errors when they cannot be."""
