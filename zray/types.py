"""ObjectRef at Ray's module path, for annotations."""

from zray.refs import ObjectRef

__all__ = ["ObjectRef"]
