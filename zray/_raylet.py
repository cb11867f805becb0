"""References and ids at the path of Ray's extension module, which pickles and type annotations name."""

from zray.base.ids import *  # noqa: F403
from zray.base.ids import __all__ as _IDS
from zray.handles.refs import DynamicObjectRefGenerator, ObjectRef, ObjectRefGenerator

ObjectID = ObjectRef

__all__ = ["DynamicObjectRefGenerator", "ObjectID", "ObjectRef", "ObjectRefGenerator"]
__all__ += _IDS
