"""Three hundred generated faults, the same in every run: none falls short. `python -m tests.faults` does more."""

from __future__ import annotations

import pytest

from faults.generated import campaign, dealt, families

CASES = 300


@pytest.mark.parametrize("family", families())
def test_no_generated_fault_falls_short(family: str) -> None:
    faults = [
        f"{family}:{each.number} {each.fault}" for each in campaign(family, dealt(CASES)[family], 0) if each.fault
    ]
    assert not faults, "\n".join(faults)
