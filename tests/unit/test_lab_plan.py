# SPDX-License-Identifier: Apache-2.0
"""The lab knows what the product takes without importing it."""

from twinbeat.config import service
from unit.bench_material import plan


def test_the_lab_refuses_what_the_product_would() -> None:
    assert plan.VIPS_MAX == service.VIPS_MAX
    assert plan.Options().vips_max() + len(plan.Options().wan_vips()) == service.VIPS_MAX
    assert plan.Options(routed=True).vips_max() == service.VIPS_MAX
