"""The worker process: takes tasks and actor calls from the mesh, runs user code, replies in batches."""
