"""Why an utterance has no value of a metric."""


class MetricError(Exception):
    """A metric has no value for this utterance; the message is the reason that results show.

    It is raised for what is wrong with the audio or the text (silence, too short, not English), never for a missing
    package or file, which is a `UserError`.
    """
