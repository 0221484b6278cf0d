"""National numbers of persons: tax, social security, health, identity; by form, check digits, and what is said of them.

Which digits are right is python-stdnum's to say. A check digit alone says little: one in eleven to one in ten of random
numbers pass most of them, and the web's captions are full of ISBNs, parts and stock photos. So a number stands for
itself only where nothing else is written in its form (`ALONE`; docs/privacy.md has the rates); every other one needs a
word before it that says what it is (`SAID`). Numbers of companies are no personal data, and not looked for.
"""

from __future__ import annotations

import functools
import importlib
import re
from dataclasses import dataclass
from typing import Any

__all__ = ["ALONE", "MAY_HOLD_NATIONAL", "SAID", "NationalNumber", "has_national_number"]


@dataclass(frozen=True, kw_only=True)
class NationalNumber:
    """One country's number."""

    modules: tuple[str, ...]
    """Of stdnum; the number is right where one of them says so."""
    form: str
    """How it is written: a regular expression for `re` and for RE2."""
    words: str = ""
    """What is said of it, by `|`; empty where it stands for itself."""


def _digits(count: str, *, last: str = "[0-9]") -> str:
    """So many digits, with a mark or a space between any two of them, and a `last` one that may be a letter."""
    return rf"[0-9](?:[ .\-/]?[0-9]){{{count}}}[ .\-/]?{last}"


ALONE = (
    NationalNumber(modules=("be.nn", "be.bis"), form=r"[0-9]{2}\.[0-9]{2}\.[0-9]{2}-[0-9]{3}\.[0-9]{2}"),
    NationalNumber(modules=("br.cpf",), form=r"[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}"),
    NationalNumber(modules=("ch.ssn",), form=r"756\.[0-9]{4}\.[0-9]{4}\.[0-9]{2}"),
    NationalNumber(modules=("cn.ric",), form=r"[1-9][0-9]{16}[0-9X]"),
    NationalNumber(modules=("fi.hetu",), form=r"[0-9]{6}[-+A-FU-Y][0-9]{3}[0-9A-Y]"),
    NationalNumber(
        modules=("fr.nir",),
        form=r"[1-478] [0-9]{2} [0-9]{2} [0-9][0-9AB] [0-9]{3} [0-9]{3} [0-9]{2}",
    ),
    NationalNumber(
        modules=("it.codicefiscale",), form=r"[A-Z]{6}[0-9L-NP-V]{2}[A-EHLMPR-T][0-9L-NP-V]{2}[A-Z]\w{3}[A-Z]"
    ),
    NationalNumber(modules=("mx.curp",), form=r"[A-Z]{4}[0-9]{6}[HM][A-Z]{5}[0-9A-Z][0-9]"),
)
"""Numbers that stand for themselves."""

SAID = (
    NationalNumber(modules=("ar.cuit",), words="cuit|cuil", form=_digits("9")),
    NationalNumber(
        modules=("at.vnr",), words="sozialversicherungsnummer|sv-nummer|sv-nr|svnr", form=r"[0-9]{4} ?[0-9]{6}"
    ),
    NationalNumber(modules=("au.tfn",), words="tfn|tax file number", form=_digits("6,7")),
    NationalNumber(
        modules=("be.nn", "be.bis"),
        words="rijksregisternummer|rijksregister|numéro national|numero national|registre national|niss|insz",
        form=_digits("9"),
    ),
    NationalNumber(modules=("bg.egn", "bg.pnf"), words="егн|лнч|egn|lnch", form=_digits("8")),
    NationalNumber(modules=("br.cpf",), words="cpf", form=_digits("9")),
    NationalNumber(
        modules=("ca.sin",),
        words="sin|social insurance number|social insurance",
        form=r"[0-9]{3}[- ]?[0-9]{3}[- ]?[0-9]{3}",
    ),
    NationalNumber(modules=("ca.bc_phn",), words="phn|personal health number", form=_digits("8")),
    NationalNumber(modules=("ch.ssn",), words="ahv-nummer|ahv-nr|ahv|avs|navs", form=_digits("11")),
    NationalNumber(modules=("cl.rut",), words="rut|run", form=_digits("6,7", last="[0-9Kk]")),
    NationalNumber(modules=("cr.cpf",), words="cédula|cedula", form=_digits("7,8")),
    NationalNumber(
        modules=("cu.ni",),
        words="carné de identidad|carne de identidad|número de identidad|numero de identidad",
        form=_digits("9"),
    ),
    NationalNumber(
        modules=("cz.rc", "sk.rc"), words="rodné číslo|rodne cislo|r.č|r. č|r.c|rč", form=r"[0-9]{6}/?[0-9]{3,4}"
    ),
    NationalNumber(
        modules=("de.idnr",),
        words="steuer-id|steuer-idnr|steuer-identifikationsnummer|steueridentifikationsnummer|idnr|tax id",
        form=_digits("9"),
    ),
    NationalNumber(modules=("dk.cpr",), words="cpr|cpr-nummer|cpr-nr|cprnr", form=r"[0-9]{6}[- ]?[0-9]{4}"),
    NationalNumber(modules=("do.cedula",), words="cédula|cedula", form=_digits("9")),
    NationalNumber(modules=("ec.ci",), words="cédula|cedula|ci", form=_digits("8")),
    NationalNumber(modules=("ee.ik",), words="isikukood", form=_digits("9")),
    NationalNumber(modules=("es.dni", "es.nie"), words="dni|nif|nie", form=r"[XYZxyz]?-?[0-9]{7,8}-?[A-Za-z]"),
    NationalNumber(
        modules=("fi.hetu",), words="hetu|henkilötunnus|henkilotunnus", form=r"[0-9]{6}[-+A-FU-Ya-fu-y][0-9]{3}\w"
    ),
    NationalNumber(
        modules=("fr.nir",),
        words="nir|numéro de sécurité sociale|numero de securite sociale|sécurité sociale|sécu|numéro ins",
        form=r"[1-478](?: ?[0-9AB]){14}",
    ),
    NationalNumber(modules=("fr.nif",), words="nif|spi|numéro fiscal|numero fiscal", form=_digits("11")),
    NationalNumber(modules=("gb.nhs",), words="nhs number|nhs no|nhs", form=r"[0-9]{3}[- ]?[0-9]{3}[- ]?[0-9]{4}"),
    NationalNumber(modules=("gb.upn",), words="upn|unique pupil number", form=r"[A-Z][0-9]{11}[0-9A-Z]"),
    NationalNumber(modules=("gr.amka",), words="amka|αμκα|α.μ.κ.α", form=_digits("9")),
    NationalNumber(modules=("hr.oib",), words="oib", form=r"(?:HR ?)?" + _digits("9")),
    NationalNumber(modules=("id.nik",), words="nik|ktp", form=_digits("14")),
    NationalNumber(modules=("ie.pps",), words="pps|ppsn|personal public service", form=r"[0-9]{7}[A-W][A-IWTX]?"),
    NationalNumber(modules=("il.idnr",), words="teudat zehut|ת.ז|תעודת זהות|israeli id", form=_digits("6,7")),
    NationalNumber(
        modules=("in_.aadhaar", "in_.vid"), words="aadhaar|aadhar|uidai|uid|vid|आधार", form=_digits("10,14")
    ),
    NationalNumber(
        modules=("in_.pan",), words="pan|permanent account", form=r"[A-Z]{3}[ABCEFGHJLPT][A-Z][0-9]{4}[A-Z]"
    ),
    NationalNumber(modules=("in_.epic",), words="epic|voter id|elector", form=r"[A-Z]{3}[0-9]{7}"),
    NationalNumber(modules=("is_.kennitala",), words="kennitala|kt", form=r"[0-9]{6}-?[0-9]{4}"),
    NationalNumber(
        modules=("jp.in_",), words="my number|マイナンバー|個人番号", form=r"[0-9]{4}[- ]?[0-9]{4}[- ]?[0-9]{4}"
    ),
    NationalNumber(modules=("kr.rrn",), words="rrn|주민등록번호|주민번호", form=r"[0-9]{6}-?[0-9]{7}"),
    NationalNumber(modules=("lt.asmens",), words="asmens kodas", form=_digits("9")),
    NationalNumber(modules=("lv.pvn",), words="personas kods|pk", form=r"[0-9]{6}-?[0-9]{5}"),
    NationalNumber(modules=("my.nric",), words="nric|mykad|ic|no. kp", form=r"[0-9]{6}[- ]?[0-9]{2}[- ]?[0-9]{4}"),
    NationalNumber(modules=("nl.bsn",), words="bsn|burgerservicenummer|sofinummer|sofi-nummer", form=_digits("6,7")),
    NationalNumber(
        modules=("no.fodselsnummer",),
        words="fødselsnummer|fodselsnummer|personnummer|fnr",
        form=r"[0-9]{6}[ -]?[0-9]{5}",
    ),
    NationalNumber(modules=("pe.cui",), words="dni|cui", form=r"[0-9]{8}-[0-9A-K]"),
    NationalNumber(modules=("pk.cnic",), words="cnic|nicop", form=r"[0-9]{5}-?[0-9]{7}-?[0-9]"),
    NationalNumber(modules=("pl.pesel",), words="pesel", form=_digits("9")),
    NationalNumber(
        modules=("pt.cc",), words="cartão de cidadão|cartao de cidadao|cc", form=r"[0-9]{8} ?[0-9] ?[A-Z0-9]{2}[0-9]"
    ),
    NationalNumber(modules=("pt.nif",), words="nif|contribuinte", form=r"(?:PT ?)?" + _digits("7")),
    NationalNumber(modules=("ro.cnp",), words="cnp|cod numeric personal", form=_digits("11")),
    NationalNumber(modules=("se.personnummer",), words="personnummer|pnr", form=r"(?:[0-9]{2})?[0-9]{6}[-+]?[0-9]{4}"),
    NationalNumber(modules=("si.emso",), words="emšo|emso|jmbg|јмбг|umcn", form=_digits("11")),
    NationalNumber(modules=("sv.nit",), words="nit", form=_digits("12")),
    NationalNumber(modules=("th.pin",), words="เลขประจำตัวประชาชน|เลขบัตรประชาชน|thai id", form=_digits("11")),
    NationalNumber(
        modules=("tr.tckimlik",), words="t.c. kimlik no|tc kimlik no|tc kimlik|t.c|tc|kimlik no", form=_digits("9")
    ),
    NationalNumber(modules=("ua.rntrc",), words="рнокпп|іпн|инн|rntrc", form=_digits("8")),
    NationalNumber(
        modules=("us.ssn", "us.itin"),
        words="ssn|social security number|social security no|social security|itin|taxpayer id",
        form=r"[0-9]{3}[- ]?[0-9]{2}[- ]?[0-9]{4}",
    ),
    NationalNumber(modules=("us.ptin",), words="ptin", form=r"P-?[0-9]{8}"),
    NationalNumber(modules=("ve.rif",), words="rif|cédula|cedula|ci", form=r"[VEve]-?[0-9]{7,8}-?[0-9]"),
    NationalNumber(modules=("za.idnr",), words="id number|id no|rsa id", form=_digits("11")),
)
"""Numbers that need a word before them."""


def _either(*numbers: NationalNumber) -> str:
    """An expression for any word of `numbers`, the longest first."""
    words = {word for number in numbers for word in number.words.split("|")}
    return "|".join(re.escape(word).replace(r"\ ", " ") for word in sorted(words, key=lambda word: (-len(word), word)))


_ANY_WORD = _either(*SAID)
MAY_HOLD_NATIONAL = "|".join([*(each.form for each in ALONE), rf"(?i:(?:^|\W)(?:{_ANY_WORD})(?:\W|$))"])
"""RE2 that matches wherever `has_national_number` finds one."""
_BETWEEN = r"\b\.?[^0-9\w]{0,4}(?:(?:is|no|nr|nº|n°|number|num|nummer|num[eé]ro|code|id|card|#)\b[^0-9\w]{0,4}){0,3}"
"""What may stand between the word and the number."""


def has_national_number(text: str) -> bool:
    """Whether a person's number stands in `text`."""
    if _alone().search(text) and any(
        _is_right(found[0], each.modules) for form, each in _forms_alone() for found in form.finditer(text)
    ):
        return True
    return _said().search(text) is not None and any(
        _is_right(found["number"], each.modules) for form, each in _forms_said() for found in form.finditer(text)
    )


def _is_right(number: str, modules: tuple[str, ...]) -> bool:
    for name in modules:
        try:
            if _module(name).is_valid(number):
                return True
        except Exception:  # noqa: BLE001 - some let through what their tables raise (stdnum.cn.ric: KeyError)
            continue
    return False


@functools.cache
def _module(name: str) -> Any:
    return importlib.import_module(f"stdnum.{name}")


@functools.cache
def _forms_alone() -> tuple[tuple[re.Pattern[str], NationalNumber], ...]:
    return tuple((re.compile(rf"(?<![\w.,/-]){each.form}(?![\w/-]|[.,][0-9])"), each) for each in ALONE)


@functools.cache
def _forms_said() -> tuple[tuple[re.Pattern[str], NationalNumber], ...]:
    return tuple(
        (re.compile(rf"(?<!\w)(?:{_either(each)}){_BETWEEN}(?P<number>{each.form})(?![\w-])", re.IGNORECASE), each)
        for each in SAID
    )


@functools.cache
def _alone() -> re.Pattern[str]:
    """Any form of ALONE."""
    return re.compile("|".join(each.form for each in ALONE))


@functools.cache
def _said() -> re.Pattern[str]:
    """Any word of SAID; few texts have one, so that the rest is spared fifty expressions."""
    return re.compile(rf"(?<!\w)(?:{_ANY_WORD})(?!\w)", re.IGNORECASE)
