"""Requests to an autoscaler, at Ray's module path.  zray starts no machines: nodes join by ``zray start``."""


def __getattr__(name: str):
    if name == "sdk":
        import importlib

        return importlib.import_module("zray.autoscaler.sdk")
    from zray.base.ray_missing import no_attribute

    raise no_attribute(__name__, name)
