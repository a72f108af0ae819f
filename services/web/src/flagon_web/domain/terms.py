"""Words that other services use for states, kinds and failures, in people's language."""

from flagon_web.i18n import N_, gettext

TERMS = frozenset(
    [
        # Of jobs, their attempts and their log.
        N_("queued"),
        N_("running"),
        N_("succeeded"),
        N_("failed"),
        N_("cancelled"),
        N_("paused"),
        N_("crashed"),
        N_("handed back"),
        N_("poison"),
        N_("exhausted"),
        N_("created"),
        N_("updated"),
        N_("unchanged"),
        N_("refused"),
        N_("usable"),
        N_("rows"),
        N_("products"),
        N_("warning"),
        N_("error"),
        N_("import"),
        N_("export"),
        N_("retention"),
        N_("probe"),
        # Of schedules and deliveries.
        N_("waiting"),
        N_("delivered"),
        N_("dead"),
        N_("fired"),
        N_("repeated"),
        N_("left out"),
        N_("skipped"),
        # Of services and products.
        N_("ready"),
        N_("degraded"),
        N_("draining"),
        N_("down"),
        N_("active"),
        N_("pending"),
        N_("rejected"),
        N_("draft"),
        N_("archived"),
        # What the audit tells of.
        N_("deleted"),
        N_("product"),
        N_("category"),
        N_("tag"),
        N_("review"),
        N_("reservation"),
        N_("image"),
        # Roles, and what happens to accounts and clients.
        N_("customer"),
        N_("merchandiser"),
        N_("operator"),
        N_("admin"),
        N_("account changed"),
        N_("account deleted"),
        N_("account exported"),
        N_("address change requested"),
        N_("address changed"),
        N_("address verified"),
        N_("api key created"),
        N_("api key revoked"),
        N_("confirmed"),
        N_("consent given"),
        N_("consent withdrawn"),
        N_("device approved"),
        N_("device denied"),
        N_("factors removed"),
        N_("identity linked"),
        N_("identity unlinked"),
        N_("logout not delivered"),
        N_("mail refused"),
        N_("passkey added"),
        N_("passkey refused"),
        N_("passkey removed"),
        N_("password changed"),
        N_("password reset"),
        N_("password reset requested"),
        N_("profile changed"),
        N_("recovery code used"),
        N_("recovery codes replaced"),
        N_("registered"),
        N_("registration repeated"),
        N_("roles changed"),
        N_("second step refused"),
        N_("session ended"),
        N_("sessions ended"),
        N_("sign in refused"),
        N_("signed in"),
        N_("signed out"),
        N_("stepped up"),
        N_("token replayed"),
        N_("totp disabled"),
        N_("totp enabled"),
        # Attributes that many products have.
        N_("publisher"),
        N_("language code"),
        N_("language"),
        N_("original publication year"),
        N_("average rating"),
        N_("ratings count"),
        N_("pages"),
        N_("colour"),
        N_("size"),
        N_("weight"),
        N_("material"),
        # Titles and details of failures.
        N_("Move its products to another category first."),
        N_("Move or delete the categories in it first."),
        N_("Have at most 12."),
        N_("Send another one."),
        N_("Send JPEG, PNG, WebP, GIF or AVIF."),
        N_("Your account may not do this."),
        N_("Your session cannot be reached right now."),
        N_("Your session is being renewed; try again in a moment."),
        N_("The uploaded file is no longer here; choose it again."),
        N_("Signing in is not possible at the moment."),
        N_("The sign-in could not be completed."),
        N_("The sign-in service does not identify itself as expected."),
        N_("The amount of money cannot be read."),
        N_("The file cannot be read as a table."),
        N_("The columns do not say enough to make products."),
        N_("The request failed on our side and has been reported."),
        N_("The service cannot reach its data right now; try again shortly."),
        N_("The jobs API does not answer."),
    ]
)
"""What is translated; anything else is shown as it comes."""


def term(word: str) -> str:
    """Return a word or sentence of another service in the language at hand.

    :param word: `handed_back` is as good as `handed back`.
    """
    words = word.replace("_", " ").strip() or word
    return gettext(words) if words in TERMS else words


def capitalized(words: str) -> str:
    """Return words as a heading has them."""
    return words[:1].upper() + words[1:]
