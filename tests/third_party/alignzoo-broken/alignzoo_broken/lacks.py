"""It needs a package that is not installed."""

import no_such_package

import alignzoo


@alignzoo.hookimpl
def alignzoo_register(zoo):
    zoo.reward("lacking", no_such_package.Reward)
