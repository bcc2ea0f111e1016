"""`alignzoo new`: a package around one small part that works at once, to be changed into one's own."""

from alignzoo.scaffold.making import LICENCES, SCAFFOLDED, make

__all__ = ["LICENCES", "SCAFFOLDED", "make"]
