"""Requests to the control store: by key, numbered, retried; watches."""
