"""The embedded default: what `segtrans demo` runs."""

from typing import Any

CONFIG: dict[str, Any] = {
    "surrogates": ["zoo:voc/pspnet-mobilenetv3s", "zoo:voc/deeplabv3plus-efficientnetlite0"],
    "targets": [
        "zoo:voc/pspnet-mobilenetv3s",
        "zoo:voc/deeplabv3plus-mobilenetv3s",
        "zoo:voc/pspnet-efficientnetlite0",
        "zoo:voc/deeplabv3plus-efficientnetlite0",
    ],
    "attacks": ["noise", "pgd", "mi", "di", "segpgd", "segtrans"],
    "data": "photos?side=256",
    "pictures": 6,
}
