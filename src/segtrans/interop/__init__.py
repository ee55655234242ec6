"""Other people's tools: their attacks in our runs, our attacks called as theirs are, and their hub."""

from segtrans.interop.conventions import as_adv_lib, as_art, as_foolbox, as_torchattacks
from segtrans.interop.foreign import Foreign
from segtrans.interop.libraries import LIBRARIES

__all__ = ["LIBRARIES", "Foreign", "as_adv_lib", "as_art", "as_foolbox", "as_torchattacks"]
