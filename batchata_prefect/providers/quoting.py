"""Quotes in place of citations, the same for both providers: whether a job can have them."""

from __future__ import annotations

from batchata_prefect.content.documents import is_scan
from batchata_prefect.models import Job
from batchata_prefect.providers.bodies import held
from batchata_prefect.providers.rendering import documents, fault


def wants_quotes(job: Job) -> bool:
    """Whether the job's answer is asked for together with quotes.

    Quotes are only worth what they are compared with, so a job without a document whose text we
    hold has none: refused where the job itself asks for them, left out where the defaults do.

    Raises:
        ValidationError: The job asks for quotes of what has no text; it says the way out.
    """
    if job.citing != "quoted":
        return False
    asked = "citations" not in job.defaulted
    if job.file is None:
        sent = held({"messages": job.messages}).documents
        quotable = any(document is not None for document in sent)
    else:
        found = documents(job)
        scans = [document for document in found if is_scan(document)]
        if asked and scans:
            raise fault(
                job,
                f"file {scans[0].name!r} has no text on any page, so a quote of it cannot be "
                "compared; run text recognition over it, or leave citations out",
            )
        quotable = any(
            document.text is not None or (document.kind == "pdf" and document not in scans)
            for document in found
        )
    if asked and not quotable:
        raise fault(
            job,
            "citations='quoted' needs a document whose text can be compared with the quotes: a "
            "PDF or a text as file=, or a PDF in the messages itself; images, URLs and uploaded "
            "files cannot be",
        )
    return quotable
