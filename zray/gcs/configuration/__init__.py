"""Who runs the control store: register, failure detection, the next configuration."""
