"""What the transformers policy inherits stays as it was inherited."""

from __future__ import annotations

import pytest

from alignzoo.gradients import TorchTraining
from alignzoo_hf.forward.tables import TableTraining
from alignzoo_hf.model.policy import HFPolicy


@pytest.mark.parametrize("base", [TorchTraining, TableTraining])
def test_no_private_method_hides_one_of_the_base_that_calls_it(base: type) -> None:
    """A sharded policy could once not go on from its checkpoint: a `_spread` of its own stood in place of the one by
    which its base spreads the torch optimizer's state."""
    own = {name for each in HFPolicy.__mro__ if not issubclass(base, each) for name in vars(each)}
    hidden = {name for name in own & vars(base).keys() if name.startswith("_") and not name.startswith("__")}
    assert not hidden - {"_torch_optimizer", "_abc_impl"}
