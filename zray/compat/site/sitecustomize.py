"""Python runs this at its start in processes of programs that run on zray in place of Ray: see zray.base.ray_names.

The next ``sitecustomize`` on the path, which this one hides, runs too.  Each Python that such a program starts comes
here, also one of another version without zray: there this does nothing.
"""

import os
import sys


def _install():
    name = "zray.base.ray_names"
    if sys.version_info < (3, 11) or name in sys.modules:
        return
    from importlib.util import module_from_spec, spec_from_file_location

    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    spec = spec_from_file_location(name, os.path.join(package, "base", "ray_names.py"))
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module  # an import by its name finds this one: there is one finder in a process
    spec.loader.exec_module(module)
    module.install()


def _run_the_next():
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec

    here = os.path.dirname(os.path.abspath(__file__))
    spec = PathFinder.find_spec("sitecustomize", [path for path in sys.path if os.path.abspath(path) != here])
    if spec is not None and spec.loader is not None:
        module = sys.modules["sitecustomize"] = module_from_spec(spec)
        spec.loader.exec_module(module)


try:
    _install()
finally:
    _run_the_next()
