"""What travels between processes: messages, and the codec of their bodies."""
