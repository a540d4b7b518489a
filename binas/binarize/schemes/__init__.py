"""One file for each scheme of the literature; importing this package registers all of their binarizers."""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__, f"{__name__}."):
    importlib.import_module(_module.name)
