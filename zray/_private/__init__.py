"""Names of Ray's private modules that public programs import, with the attributes that they use;
nothing of zray's own."""


def __getattr__(name: str):
    if name in ("ray_constants", "services", "state", "worker"):
        import importlib

        return importlib.import_module(f"zray._private.{name}")
    raise AttributeError(f"module 'zray._private' has no attribute {name!r}")
