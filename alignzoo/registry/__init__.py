"""Every plugin there is, by name; importing this imports no torch."""

from alignzoo.registry.failure import Failure
from alignzoo.registry.host import KINDS, Registry
from alignzoo.registry.registrar import Registrar, Registration

__all__ = ["KINDS", "Failure", "Registrar", "Registration", "Registry"]
