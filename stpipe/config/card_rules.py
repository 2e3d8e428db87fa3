"""Rules about the model card: what the Hub would refuse, and what is missing on this machine, said before anything is trained."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path

from stpipe.config.finding import Rules
from stpipe.config.suggest import did_you_mean

LANGUAGE = re.compile(r"[a-z]{2,3}")
SPECIAL_LANGUAGES = ("multilingual", "code")
COUNTRY = re.compile(r"[A-Z]{3}")
COUNTRIES = ("data", "private_infra", "global_energy_mix.json")  # inside codecarbon
#: Identifiers of the Hub (huggingface.co/docs/hub/repositories-licenses). It gets new ones, so another one is only warned of.
LISTED = """
apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m afl-3.0 artistic-2.0
bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0
cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0
cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2
agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0
odc-by odbl openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license
fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 grok2-community gemma unknown other
"""
LICENSES = frozenset(LISTED.split())


def language(rules: Rules) -> None:
    """Codes that the Hub takes."""
    given = rules.values["card"]["language"]
    for code in [part.strip() for part in (given or "").split(",") if part.strip()]:
        if LANGUAGE.fullmatch(code) is None and code not in SPECIAL_LANGUAGES:
            what = f"{rules.origins.shown(('card', 'language'), code)} is no language code of the Hub. Expected: ISO 639 in lower case, like en or deu (several: en, de), or "
            rules.problem(("card", "language"), what + " or ".join(SPECIAL_LANGUAGES))


def licence(rules: Rules) -> None:
    """Identifiers that the Hub knows; a misspelt one would be refused when the card is pushed."""
    given = rules.values["card"]["license"]
    if given and given not in LICENSES:
        rules.warn(
            f"card.license: {rules.origins.shown(('card', 'license'), given)} is no identifier that the Hub is known to have. {did_you_mean(given, sorted(LICENSES))}Else use other"
        )


def template_exists(rules: Rules) -> None:
    """The user's template is a file that is a Jinja template."""
    given = rules.values["card"]["template"]
    if given is None:
        return
    from jinja2 import Environment, TemplateSyntaxError

    path, shown = Path(given).expanduser(), rules.origins.shown(("card", "template"), given)
    try:
        Environment().parse(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        rules.problem(("card", "template"), f"{shown} cannot be read ({type(error).__name__}). Name a Jinja file in UTF-8")
    except TemplateSyntaxError as error:
        rules.problem(("card", "template"), f"{shown} line {error.lineno}: {error.message}")


def energy_can_be_measured(rules: Rules) -> None:
    """codecarbon is installed, and knows the country."""
    given = rules.values["card"]["energy"]
    if given is None:
        return
    found = importlib.util.find_spec("codecarbon")
    if found is None or not found.submodule_search_locations:
        what = "energy is measured by the package 'codecarbon', which is not installed. Install it with: pip install 'stpipe[energy]'"
        rules.problem(("card", "energy"), what)
        return
    mixes = Path(next(iter(found.submodule_search_locations))).joinpath(*COUNTRIES)
    known = json.loads(mixes.read_text(encoding="utf-8")) if mixes.is_file() else {}
    if COUNTRY.fullmatch(given) is None or (known and given not in known):
        what = f"{rules.origins.shown(('card', 'energy'), given)} is no country that codecarbon has an electricity mix of. {did_you_mean(given, known)}"
        rules.problem(("card", "energy"), f"{what}Expected: three capital letters (ISO 3166), like DEU or USA")


#: Those that look at this machine.
CARD_PLACES: tuple[Callable[[Rules], None], ...] = (template_exists, energy_can_be_measured)
CARD_RULES: tuple[Callable[[Rules], None], ...] = (language, licence)
