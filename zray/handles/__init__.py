"""What a program holds: references, remote functions, actor handles, and their options."""
