"""ObjectRef at Ray's module path, for annotations."""

from zray.handles.refs import ObjectRef

__all__ = ["ObjectRef"]
