"""Type checking at test time: beartype, with int accepted where float is asked for, as PEP 484 and pyright have it."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
