"""Living datacubes of lakes, snow and vegetation from cloud-optimised satellite imagery."""

import lazy_loader

# Of this package's libraries a worker or one call of the command line needs a few: names are
# imported as they are used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
