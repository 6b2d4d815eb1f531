"""An import contract by allow-list: *absent means no*, for imports too.

import-linter's own `forbidden` contract lists what is denied, so that a module written tomorrow is
allowed until somebody remembers to deny it. `only` lists what may be reached, directly or through
any chain of imports, and denies the rest.

    [[tool.importlinter.contracts]]
    type = "only"
    source_modules = ["coordinator"]
    allowed_modules = ["attestation.errors"]
    denied_external = ["numpy"]              # optional: packages from outside that are denied
"""

from typing import Any

import grimp
from importlinter import Contract, ContractCheck, fields, output


class OnlyContract(Contract):
    """`source_modules` may reach `allowed_modules`, themselves, and no other internal module."""

    type_name = "only"

    source_modules = fields.ListField(subfield=fields.StringField())
    allowed_modules = fields.ListField(subfield=fields.StringField())
    denied_external = fields.ListField(subfield=fields.StringField(), required=False, default=[])

    def check(self, graph: grimp.ImportGraph, verbose: bool) -> ContractCheck:
        """Find the shortest chain to every internal module that is not allowed."""
        options: Any = self
        allowed = [*options.source_modules, *options.allowed_modules]
        for name in allowed:
            if name not in graph.modules:
                raise ValueError(f"no module {name}")
        sources = {
            module for name in options.source_modules for module in _with_children(graph, name)
        }
        # One chain per denied module, the shortest: the others go through it.
        shortest: dict[str, tuple[str, ...]] = {}
        for source in sorted(sources):
            for reached in graph.find_upstream_modules(source):
                if _denied(graph, reached, allowed, options.denied_external):
                    chain = graph.find_shortest_chain(importer=source, imported=reached)
                    found = chain or (source, reached)
                    shortest[reached] = min(shortest.get(reached, found), found, key=len)
        chains = [shortest[reached] for reached in sorted(shortest)]
        return ContractCheck(kept=not chains, metadata={"chains": chains})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """Print each chain."""
        for chain in check.metadata["chains"]:
            output.print_error(f"{chain[0]} may not reach {chain[-1]}:")
            output.print_error("    " + " -> ".join(chain), bold=False)


def _with_children(graph: grimp.ImportGraph, name: str) -> set[str]:
    return {name} | graph.find_descendants(name)


def _denied(
    graph: grimp.ImportGraph, module: str, allowed: list[str], denied_external: list[str]
) -> bool:
    if graph.is_module_squashed(module):
        return module in denied_external
    # A package's own `__init__` holds a docstring only (tests/architecture), so being on the way to
    # an allowed module is harmless; being below one is what the allowance means.
    return not any(
        module == name or module.startswith(f"{name}.") or name.startswith(f"{module}.")
        for name in allowed
    )
