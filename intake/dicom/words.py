"""Words in DICOM headers and tables: those that stand for no value, a contrast agent, or a part of the body."""

import re
import unicodedata

from cohort.names import is_missing

_NOBODY = {"anonymous", "anonymized", "anonymised", "anonymus", "anonym", "anon", "anonymisiert", "anonyme", "anonimo"}
_NOBODY |= {"anonymouspatient", "anonymizedpatient", "patient", "patientid", "noid", "nopatientid", "noname", "nn"}
_NOBODY |= {"unbekannt", "inconnu", "desconocido", "desconhecido", "sconosciuto", "onbekend", "empty", "blank", "unk"}
_NOBODY |= {"unspecified", "notspecified", "notknown"}
_NOBODY |= {"deidentified", "deid", "removed", "deleted", "redacted", "withheld", "default", "xx", "xxx", "xxxx"}
_NO_AGENT = {"no", "n", "non", "nein", "nee", "false", "0", "without", "ohne", "sans", "sin", "sem", "senza", "keine"}
_NO_AGENT |= {"kein", "nativ", "native", "nocontrast", "keines", "ninguno", "nenhum", "nessuno", "aucun", "geen"}


def plain(text: str) -> str:
    """Return letters and digits of a text only, in one form of Unicode (NFKC) and case."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", text).casefold())


def nobody(patient: str) -> str:
    """Return the word, in capitals, if a PatientID is one that names no patient ("ANONYMOUS", "NA"); otherwise ""."""
    word = plain(patient)
    return (word.upper() or "EMPTY") if patient and (is_missing(patient) or word in _NOBODY) else ""


_EDGE, _END = r"(?<![^\W\d_])", r"(?![^\W\d_])"  # no letter before, none after
_AGENT = r"contr\w*|kontr\w*|контраст\w*|km|kmb|gd|gad\w*|mdc|mdk|pdc|inj\w*|iv|ce|c"
_WITHOUT = r"without|w/?o|no|non|not|sans|s/|sin|sem|senza|ohne|kein\w*|zonder|bez|utan|uten|pre|před|без|avant|vor"
_WITH = r"with|w|avec|con|com|mit|met|med|c"
_NEGATED = re.compile(rf"{_EDGE}({_WITHOUT})[\s_.\-]*({_AGENT}){_END}|kontrasts[ıi]z|un-?enhanced|non-?enhanced", re.I)
_BOTH = re.compile(
    rf"{_EDGE}({_WITH})\s?(/|\+|&|and|und|et|y|e|en)\s?(without|w/?o|sans|sin|sem|senza|ohne|zonder|s){_END}", re.I
)
_CONTRAST = re.compile(
    r"gado|gad(?![a-z])|\+ ?c(?![a-z])|contrast|kontrast|контраст|造影|增强|增強|post.?con|"
    rf"{_EDGE}(gd|km|kmb|ce|post|pc|pdc|mdc|mdk|inj|inject\w*|injekt\w*|injecté\w*|enh|c\+|après|apres|nach){_END}|"
    r"dotarem|magnevist|prohance|multihance|omniscan|clariscan|primovist|dotagraf|elucirem|vueway",
    re.I,
)


def names_contrast(text: str) -> bool:
    """Check if words say that a contrast agent was given, in the languages of scanners; "without contrast" is none."""
    text = unicodedata.normalize("NFC", text)
    return bool(_BOTH.search(text) or _CONTRAST.search(_NEGATED.sub(" ", text)))


def is_agent(text: str) -> bool:
    """Check if ContrastBolusAgent names one; "NONE", "No" and "without contrast" do not."""
    first = plain((text.split() or [""])[0])
    if is_missing(text) or plain(text) in _NO_AGENT or first in ("no", "none", "kein", "keine", "aucun"):
        return False
    return names_contrast(text) or not _NEGATED.search(text)


_PARTS = {
    "head": r"head|brain|skull|cereb|enceph|encef|neuro|kopf|sch[aä]e?del|hirn|cr[aâ]n|cerveau|t[eê]te|cabe[zcç]a|"
    rf"{_EDGE}testa{_END}",
    "spine": rf"spin(e|al)|vertebra|cervical|cervicale|thoracic|dorsal|lumbar|lombar|lombaire|sacr(um|al)|wirbel|rachi|"
    rf"colonn|column|coluna|{_EDGE}([ctl][ _-]?sp|[hbl]ws|[ctl]s[ _-]?spine){_END}",
    "neck": rf"neck|{_EDGE}(hals|cou|cuello|collo|pesco[cç]o){_END}|larynx|carotid",
    "chest": rf"chest|thorax|torax|lung|{_EDGE}(brust|poumon){_END}",
    "heart": rf"heart|cardi|herz|coraz|{_EDGE}c(oe|œ)ur{_END}",
    "abdomen": r"abdom|liver|leber|kidney|niere|pancrea",
    "pelvis": rf"pelvi|prostat|{_EDGE}becken{_END}",
    "breast": r"breast|mamm[ao]",
    "limb": rf"shoulder|schulter|elbow|{_EDGE}(knee|knie|hip|ankle|foot|hand|wrist|arm|leg|thigh|femur|genou|rodilla)"
    rf"{_END}|extremity",
    "whole body": r"(whole|entire).?body|ganzk[oö]e?rper|corps.entier|cuerpo.entero|skull.?(base)?.?to.?thigh",
}


def body_parts(text: str) -> tuple[str, ...]:
    """Return the parts of the body that words name, as `_PARTS` calls them; a whole body is one part."""
    text = unicodedata.normalize("NFC", text)
    found = tuple(part for part, pattern in _PARTS.items() if re.search(pattern, text, re.IGNORECASE))
    return ("whole body",) if "whole body" in found else found
