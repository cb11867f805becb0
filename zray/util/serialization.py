"""Serializers of users' types, at Ray's module path."""

from zray.util import deregister_serializer
from zray.values.custom_serializers import register_serializer

__all__ = ["deregister_serializer", "register_serializer"]
