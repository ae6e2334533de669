"""Composition: where Hydra looks for configs and recipes, and a run's config composed from overrides.

``configs/<group>/<name>.yaml`` are Hydra groups as they lie. A recipe ``recipes/<folder>/<name>.yaml`` is in
the group ``recipe``; a user's own folder (``recipes=<folder>``) comes first, so that it can extend the
shipped recipes or replace one by its name. Both are found through the package, so that everything composes
offline and from any folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from qat import paths
from qat.config import hosting, resolvers, schema, scheme_file
from qat.errors import InputError

CONFIG_NAME = "config"
VERSION_BASE = "1.3"
GROUP = "recipe"
# The group that `qat compare` picks from with `rows=[...]`: no part of a run.
ROW = "row"
# Groups of which a run may pick several (`export=[a,b]`): each config gets its own place, `export.<name>`.
SEVERAL = ("export", "engine", "pricing")


class ConfigsSource(FileConfigSource):
    """The shipped ``configs/`` folder (or another one of the same layout); a scheme may also be a file elsewhere."""

    @staticmethod
    def scheme() -> str:
        return "configs"

    def is_config(self, config_path: str) -> bool:
        return scheme_file.find(config_path) is not None or super().is_config(config_path)

    def load_config(self, config_path: str) -> ConfigResult:
        """Read one config, and give those of the groups in :data:`SEVERAL` a package of their own."""
        if (path := scheme_file.find(config_path)) is not None:
            node = OmegaConf.create(scheme_file.load(path))
            return ConfigResult(self.provider, str(path), node, header={"package": None})
        result = super().load_config(config_path)
        group, _, name = config_path.removesuffix(".yaml").rpartition("/")
        if group in SEVERAL and result.header["package"] is None:
            result.header["package"] = f"{group}.{name}"
        return result


class RecipesSource(FileConfigSource):
    """A folder of recipes, as the one group ``recipe`` whose choices are ``<folder>/<name>``.

    A recipe's content belongs at the top level of the config.
    """

    @staticmethod
    def scheme() -> str:
        return "recipes"

    def is_group(self, config_path: str) -> bool:
        return config_path in ("", GROUP)

    def is_config(self, config_path: str) -> bool:
        group, _, name = config_path.partition("/")
        return group == GROUP and super().is_config(name)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        if config_path == "":
            return [] if results_filter == ObjectType.CONFIG else [GROUP]
        return [] if results_filter == ObjectType.GROUP else sorted(_yaml_files(Path(self.path)))

    def load_config(self, config_path: str) -> ConfigResult:
        """Read one recipe.

        Raises:
            InputError: if it does more than pick and override.
        """
        result = super().load_config(config_path.removeprefix(f"{GROUP}/"))
        name = config_path.removesuffix(".yaml")
        if not isinstance(result.config, DictConfig):
            raise InputError(f"{name}: a recipe is a mapping of options, this is a {type(result.config).__name__}")
        if result.header["package"] not in (None, "_global_"):
            raise InputError(f"{name}: '@package {result.header['package']}' has no place in a recipe; remove it")
        result.header["package"] = "_global_"
        _refuse_targets(name, result.config)
        return result


class SearchPath(SearchPathPlugin):
    """Puts the user's recipes, the shipped recipes and the shipped configs on Hydra's search path."""

    user_recipes: Path | None = None  # of the class: Hydra makes the instances itself

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if self.user_recipes is not None:
            search_path.append("user recipes", f"recipes://{self.user_recipes}")
        search_path.append("recipes", f"recipes://{paths.recipes_dir()}")
        search_path.append("configs", f"configs://{paths.configs_dir()}")


def setup(user_recipes: str | Path | None = None) -> None:
    """Make the groups, the recipes and the schema known to Hydra; may be called again.

    Args:
        user_recipes: a folder of recipes ``<folder>/<name>.yaml`` besides the shipped ones.

    Raises:
        InputError: if ``user_recipes`` is not a folder.
    """
    if user_recipes is not None and not Path(user_recipes).is_dir():
        raise InputError(f"recipes={user_recipes} is not a folder; give one with <folder>/<recipe>.yaml in it")
    SearchPath.user_recipes = None if user_recipes is None else Path(user_recipes).resolve()
    for plugin in (ConfigsSource, RecipesSource, SearchPath):
        Plugins.instance().register(plugin)
    schema.register()
    hosting.register()
    resolvers.register()


def primary(command: str) -> str:
    """Name of the config that a command starts from: its own ``configs/<command>.yaml``, or that of a run.

    Example:
        >>> primary("serve"), primary("train")
        ('serve', 'config')
    """
    return CONFIG_NAME if hosting.schema(command) is None else command


def compose(overrides: Sequence[str], user_recipes: str | Path | None = None, name: str = CONFIG_NAME) -> DictConfig:
    """Compose a run's config, as ``qat <command> <overrides>`` does.

    Args:
        overrides: the words after the command.
        user_recipes: a folder of recipes besides the shipped ones.
        name: the config to start from, see :func:`primary`.

    Returns:
        The config with interpolations still in it, but without Hydra's own node.

    Raises:
        InputError: if ``user_recipes`` is not a folder.
        HydraException: see :func:`qat.config.explain.explain`.

    Example:
        >>> compose(["recipe=demo/w4a16_lsq", "trainer.max_steps=50"]).trainer.max_steps
        50
    """
    setup(user_recipes)
    outer = HydraConfig.instance().cfg
    GlobalHydra.instance().clear()
    try:
        with initialize(config_path=None, version_base=VERSION_BASE, job_name="qat"):
            config = hydra_compose(name, list(overrides), return_hydra_config=True)
            HydraConfig.instance().set_config(config)
            # Interpolations of `hydra:` can be resolved in here only.
            if name == CONFIG_NAME:
                config.recipe = config.recipe
                config.choices.update({choice: config.choices[choice] for choice in config.choices})
            with open_dict(config):
                del config["hydra"]
            return config
    finally:
        HydraConfig.instance().cfg = outer


def choices(group: str) -> dict[str, Path]:
    """The configs that can be chosen in ``group``, by name, with their files; not hidden ones (``_x``).

    Example:
        >>> sorted(choices("phase"))[:2]
        ['blend', 'calibrate']
    """
    if group == GROUP:
        folders = [paths.recipes_dir(), *([SearchPath.user_recipes] if SearchPath.user_recipes else [])]
    else:
        folders = [paths.configs_dir() / group]
    found = {name: path for folder in folders for name, path in _yaml_files(folder).items()}
    return dict(sorted(found.items()))


def component(group: str, name: str) -> dict[str, Any]:
    """A shipped config as it lies, with the options that it has by default.

    Raises:
        KeyError: there is no such config; see :func:`choices`.

    Example:
        >>> component("export", "compressed_tensors")["max_shard_size"]
        '5GB'
    """
    node = OmegaConf.to_container(OmegaConf.load(choices(group)[name]))
    assert isinstance(node, dict)
    return {str(key): value for key, value in node.items()}


def groups() -> list[str]:
    """The shipped config groups, without ``recipe``."""
    return sorted({path.parent.name for path in paths.configs_dir().glob("*/*.yaml")})


def _yaml_files(folder: Path) -> dict[str, Path]:
    """``<folder>/demo/base.yaml`` by the name ``demo/base``; what begins with ``_`` is to be built upon."""
    names = {path.relative_to(folder).with_suffix("").as_posix(): path for path in folder.rglob("*.yaml")}
    return {name: path for name, path in names.items() if not any(part.startswith("_") for part in name.split("/"))}


def _refuse_targets(name: str, config: DictConfig) -> None:
    """A recipe only picks and overrides: no ``_target_`` and nothing of Hydra's own in it."""
    defaults = OmegaConf.to_container(config.get("defaults") or ListConfig([]), resolve=False)
    assert isinstance(defaults, list)
    picks = [key for entry in defaults for key in (entry if isinstance(entry, dict) else [str(entry)])]
    if "hydra" in config or any("hydra/" in pick for pick in picks):
        raise InputError(f"{name}: a recipe must not set Hydra's own options; give them on the command line")
    for key in _keys(OmegaConf.to_container(config, resolve=False)):
        if key.rpartition(".")[2] == "_target_":
            raise InputError(
                f"{name}: '{key}' in a recipe; a recipe only picks components and sets their options, "
                "so pick one in its defaults list instead"
            )


def _keys(node: Any, prefix: str = "") -> Iterator[str]:
    """Every key of a nested container as a dotted path."""
    pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in pairs:
        yield f"{prefix}{key}"
        yield from _keys(value, f"{prefix}{key}.")
