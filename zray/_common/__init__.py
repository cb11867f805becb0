"""Names of Ray's shared private modules that programs import; nothing of zray's own."""


def __getattr__(name: str):
    if name in ("network_utils", "test_utils", "utils"):
        import importlib

        return importlib.import_module(f"zray._common.{name}")
    from zray.base.ray_missing import no_attribute

    raise no_attribute(__name__, name)
