"""Progress bars of workers, at Ray's module path."""

from zray.api.progress_bars import BarManager, instance, safe_print, tqdm

__all__ = ["BarManager", "instance", "safe_print", "tqdm"]
