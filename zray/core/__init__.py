"""A core process (driver or worker): its Runtime and the rooms the Runtime is composed of."""
