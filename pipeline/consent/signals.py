"""What of a config's consent concerns pages, and what pictures' answers: each is part of the key of what it decides."""

from __future__ import annotations

from dataclasses import dataclass

from configs.load import fingerprint
from pipeline.consent.config import ConsentConfig

__all__ = ["AnswerSignals", "PageSignals"]


@dataclass(frozen=True, kw_only=True)
class PageSignals:
    """What of a page is honoured. The default is what `consent.level: standard` says."""

    directives: tuple[str, ...] = ConsentConfig().page_directives
    """Empty where robots metas and X-Robots-Tag are not honoured."""
    tdm_reservation: bool = True
    content_usage: bool = True
    content_signal: bool = True

    @classmethod
    def of(cls, config: ConsentConfig) -> PageSignals:
        """As a config has them."""
        return cls(
            directives=config.page_directives if config.honours("page_robots") else (),
            tdm_reservation=config.honours("tdm_reservation"),
            content_usage=config.honours("content_usage"),
            content_signal=config.honours("content_signal"),
        )


@dataclass(frozen=True, kw_only=True)
class AnswerSignals:
    """What of an answer is honoured. The default is what `consent.level: standard` says."""

    x_robots_directives: tuple[str, ...] = ConsentConfig().x_robots_directives
    """Empty where X-Robots-Tag is not honoured."""
    tdm_reservation: bool = True
    content_usage: bool = True
    content_signal: bool = True
    xmp_data_mining: bool = True
    c2pa: bool = False
    tdmrep_json: bool = False

    @classmethod
    def of(cls, config: ConsentConfig) -> AnswerSignals:
        """As a config has them."""
        return cls(
            x_robots_directives=config.x_robots_directives if config.honours("x_robots_tag") else (),
            tdm_reservation=config.honours("tdm_reservation"),
            content_usage=config.honours("content_usage"),
            content_signal=config.honours("content_signal"),
            xmp_data_mining=config.honours("xmp_data_mining"),
            c2pa=config.honours("c2pa"),
            tdmrep_json=config.honours("tdmrep_json"),
        )

    @property
    def key(self) -> str:
        """Equal exactly where every answer is judged alike."""
        return fingerprint(self)
