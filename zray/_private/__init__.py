"""Names of Ray's private modules that public programs import, with the attributes that they use;
nothing of zray's own."""


def __getattr__(name: str):
    if name in ("ray_constants", "services", "state", "test_utils", "utils", "worker"):
        import importlib

        return importlib.import_module(f"zray._private.{name}")
    from zray.base.ray_missing import no_attribute

    raise no_attribute(__name__, name)
