"""World families of one's own, by the import path of a class, an object, or a function that makes one."""

from foveal.spec import ConfigError, _load_module
from foveal.worlds.base import Family, WorldError
from foveal.worlds.problems import FAMILIES


def named(family: str) -> str:
    """The name of a family; one by its import path, `my_file:MyFamily`, is imported and known by its name
    from then on.

    Only a config names families by paths: a problem's `meta` is looked up among those that are known.
    Raises: WorldError, when there is no family at the path, or its name is another one's.
    """
    if ":" not in family:
        return family
    module_name, _, name = family.rpartition(":")
    try:
        module = _load_module(module_name, kind="world family", path=family)
    except ConfigError as error:
        raise WorldError(str(error)) from error
    found = getattr(module, name, None)
    if found is None:
        raise WorldError(f"world family {family!r}: module {module_name!r} has no {name!r}")
    made = found if isinstance(found, Family) or not callable(found) else found()
    if not isinstance(made, Family):
        raise WorldError(
            f"world family {family!r} is a {type(made).__name__}; expected a class derived from "
            f"foveal.worlds.Family, an object of one, or a function that makes one"
        )
    known = FAMILIES.setdefault(made.name, made)
    if type(known) is not type(made):
        raise WorldError(
            f"world family {family!r} has the name {made.name!r}, which is that of {type(known).__qualname__}"
            f"; give it a name of its own"
        )
    return made.name
