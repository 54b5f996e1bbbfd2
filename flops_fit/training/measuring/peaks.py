"""Peak FLOP/s of common accelerators, as their vendors publish them.

Dense bf16 matrix products that accumulate in fp32, of one device as torch sees it; fp16 has the
same peak on each of these. Vendors often print twice the figure, "with sparsity": where only that
is printed, half of it stands here. A device that is not listed has no nominal peak, and its
utilisation is told against the measured one alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

_AMPERE = (
    "https://www.nvidia.com/content/PDF/nvidia-ampere-ga-102-gpu-architecture-whitepaper-v2.pdf"
)
_RTX = "https://images.nvidia.com/aem-dam/Solutions/geforce/blackwell/nvidia-rtx-blackwell-gpu-architecture.pdf"
_RTX_PRO = "https://www.nvidia.com/content/dam/en-zz/Solutions/design-visualization/quadro-product-literature/NVIDIA-RTX-Blackwell-PRO-GPU-Architecture-v1.0.pdf"
_AMD = "https://www.amd.com/content/dam/amd/en/documents/instinct-tech-docs"

_TERAFLOPS: Mapping[str, tuple[float, str]] = MappingProxyType(
    {  # name without vendor, memory and socket: (TFLOP/s, source)
        "a100": (312, "https://www.nvidia.com/en-us/data-center/a100/"),
        "a100 pcie": (312, "https://www.nvidia.com/en-us/data-center/a100/"),
        "a30": (165, "https://www.nvidia.com/content/dam/en-zz/Solutions/data-center/products/a30-gpu/pdf/a30-datasheet.pdf"),
        "a40": (149.7, "https://www.nvidia.com/content/dam/en-zz/Solutions/Data-Center/a40/proviz-print-nvidia-a40-datasheet-us-nvidia-1469711-r8-web.pdf"),
        "a10": (125, "https://www.nvidia.com/content/dam/en-zz/Solutions/Data-Center/a10/pdf/a10-datasheet.pdf"),
        "rtx a6000": (154.8, _AMPERE),  # table 3
        "h100": (1979 / 2, "https://www.nvidia.com/en-us/data-center/h100/"),  # SXM
        "h100 pcie": (1513 / 2, "https://resources.nvidia.com/en-us-tensor-core/nvidia-tensor-core-gpu-datasheet"),
        "h100 nvl": (1671 / 2, "https://www.nvidia.com/en-us/data-center/h100/"),
        "h200": (1979 / 2, "https://www.nvidia.com/en-us/data-center/h200/"),
        "h200 nvl": (1671 / 2, "https://www.nvidia.com/en-us/data-center/h200/"),
        "gh200": (990, "https://resources.nvidia.com/en-us-data-center-overview-mc/en-us-data-center-overview/grace-hopper-superchip-datasheet-partner"),
        "b200": (36_000 / 8 / 2, "https://www.nvidia.com/en-us/data-center/hgx/"),  # eight
        "b300": (36_000 / 8 / 2, "https://www.nvidia.com/en-us/data-center/hgx/"),  # eight
        "gb200": (360_000 / 72 / 2, "https://www.nvidia.com/en-us/data-center/gb200-nvl72/"),
        "gb300": (360_000 / 72 / 2, "https://www.nvidia.com/en-us/data-center/gb300-nvl72/"),
        "l4": (242 / 2, "https://resources.nvidia.com/en-us-data-center-overview/l4-gpu-datasheet"),
        "l40": (181.05, "https://www.nvidia.com/en-us/data-center/l40/"),
        "l40s": (362.05, "https://www.nvidia.com/en-us/data-center/l40s/"),
        "rtx 3090": (71.2, _RTX),  # table 3, as the next two
        "rtx 4090": (165.2, _RTX),
        "rtx 5090": (209.5, _RTX),
        "rtx 6000 ada generation": (364, _RTX_PRO),  # table 4, as the next
        "rtx pro 6000 blackwell workstation edition": (503.8, _RTX_PRO),
        # One of its two dies, since each is a device of its own.
        "mi250x": (383 / 2, "https://www.amd.com/en/products/accelerators/instinct/mi200/mi250x.html"),
        "mi300x": (1307.4, f"{_AMD}/data-sheets/amd-instinct-mi300x-data-sheet.pdf"),
        "mi325x": (1307.4, "https://www.amd.com/en/products/accelerators/instinct/mi300/mi325x.html"),
        "mi350x": (2309.6, f"{_AMD}/product-briefs/amd-instinct-mi350x-gpu-brochure.pdf"),
        "mi355x": (2516.6, f"{_AMD}/product-briefs/amd-instinct-mi355x-gpu-brochure.pdf"),
    }
)  # fmt: skip

# Words of a device's name that leave its peak as it is: who made it, its memory, its socket.
_SAYS_NOTHING = re.compile(r"nvidia|amd|instinct|geforce|\d+gb?|hbm3e?|sxm\d?|oam|ac")


def nominal_peak(device_name: str, precision: str) -> float | None:
    """Return the published peak of a device in FLOP/s; None if the table has none.

    Whatever a name holds beyond the table's own words (`Laptop`, `Ti`, `MIG 1g.10gb`) makes it
    another device.

    Args:
        device_name: as torch calls it, `NVIDIA H100 80GB HBM3`; in any case of letters.
        precision: of training, `bf16` or `fp16`; the table has no peak of another.
    """
    if precision not in {"bf16", "fp16"}:
        return None
    words = re.findall(r"[a-z0-9]+", device_name.lower())
    name = " ".join(word for word in words if not _SAYS_NOTHING.fullmatch(word))
    found = _TERAFLOPS.get(name)
    return None if found is None else found[0] * 1e12
