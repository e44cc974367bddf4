"""Type checking at test time: beartype, with int accepted where float is asked for, as PEP 484 and pyright have it."""

import typing

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))


def _remember_protocols():
    """Looks at the members of a class's first instance only: equinox makes most members anew for every look.

    Python 3.12 looks at classes by itself.
    """
    meta = type(typing.Protocol)
    look, verdicts = meta.__instancecheck__, {}

    def look_once(protocol: type, instance: object) -> bool:
        of_classes = protocol, type(instance)
        if of_classes not in verdicts:
            verdicts[of_classes] = look(protocol, instance)
        return verdicts[of_classes]

    meta.__instancecheck__ = look_once


_remember_protocols()
