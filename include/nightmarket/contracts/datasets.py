"""Every dataset of the shop, once."""

from __future__ import annotations

from dataclasses import replace

from nightmarket.contracts.model import Column, Dataset, Reference

EVENT_TYPES = ("view", "cart", "purchase", "return")

_MONEY = "decimal(18,4)"

# Where a row came from; added by ingestion, kept through silver so that any row can be traced to its file and line.
_LINEAGE = (
    Column("delivered_on", "date", "The night that delivered the row; the partition it lives in.", nullable=False),
    Column("source_file", "string", "Name of the delivered file or table.", nullable=False),
    Column("source_row", "long", "Position of the row in that file, from 0; orders corrections.", nullable=False),
)

_EVENT_COLUMNS = (
    Column("event_id", "string", "The event. Made from file and row where the shop has no such key.", nullable=False),
    Column("event_ts", "timestamp", "When it happened.", unit="UTC", nullable=False),
    Column("event_type", "string", "What happened.", nullable=False, allowed=EVENT_TYPES),
    Column("user_id", "string", "The shopper's key in the shop; null for a stranger."),
    Column("item_id", "string", "The product.", nullable=False),
    Column("quantity", "long", "How many; negative for returns, 1 where the shop does not say.", unit="units",
           minimum=-100_000, maximum=100_000),
    Column("unit_price", _MONEY, "Price of one unit as charged.", unit="shop currency", minimum=0, maximum=1_000_000),
    Column("currency", "string", "Currency of unit_price.", unit="ISO 4217"),
    Column("order_id", "string", "The order or invoice, for purchases and returns."),
    Column("session_id", "string", "The visit."),
    Column("country", "string", "Where the shopper is."),
    Column("referrer", "string", "Where the visit came from."),
    Column("device_id", "string", "The device.", personal="pseudonym"),
    Column("ip_address", "string", "The address the request came from.", personal="pseudonym"),
    Column("updated_at", "timestamp", "When the shop last changed the row; orders corrections.", unit="UTC"),
)

_ITEM_COLUMNS = (
    Column("item_id", "string", "The product.", nullable=False),
    Column("title", "string", "Its title as shown."),
    Column("language", "string", "Language of the title.", unit="ISO 639-1"),
    Column("category", "string", "Its category."),
    Column("brand", "string", "Its brand or manufacturer."),
    Column("list_price", _MONEY, "Price before promotions.", unit="shop currency", minimum=0, maximum=1_000_000),
    Column("currency", "string", "Currency of list_price.", unit="ISO 4217"),
    Column("in_stock", "boolean", "Whether it can be bought."),
    Column("listed_at", "timestamp", "When it was first offered.", unit="UTC"),
    Column("updated_at", "timestamp", "When the shop last changed the row; orders corrections.", unit="UTC"),
)

_USER_COLUMNS = (
    Column("user_id", "string", "The shopper's key in the shop.", nullable=False),
    Column("signed_up_at", "timestamp", "When the account was opened.", unit="UTC"),
    Column("country", "string", "Country of residence."),
    Column("email", "string", "Mail address.", personal="pseudonym"),
    Column("phone", "string", "Telephone number.", personal="pseudonym"),
    Column("full_name", "string", "Name.", personal="encrypt"),
    Column("address", "string", "Postal address.", personal="encrypt"),
    Column("age_group", "string", "Age band, for fairness only: never a feature."),
    Column("income_group", "string", "Income band, for fairness only: never a feature."),
    Column("referrer", "string", "Where the sign-up came from."),
    Column("device_id", "string", "Device at sign-up.", personal="pseudonym"),
    Column("ip_address", "string", "The address the sign-up came from.", personal="pseudonym"),
    Column("ip_country", "string", "Country of that address, by the shop's file of ranges.", unit="ISO 3166 alpha-2"),
    Column("updated_at", "timestamp", "When the shop last changed the row; orders corrections.", unit="UTC"),
)

_ORDER_COLUMNS = (
    Column("order_id", "string", "The order or invoice.", nullable=False),
    Column("user_id", "string", "Who ordered; null for a stranger."),
    Column("order_ts", "timestamp", "When it was placed.", unit="UTC", nullable=False),
    Column("amount", _MONEY, "Value of its lines; negative for a cancellation.", unit="shop currency",
           minimum=-10_000_000, maximum=10_000_000),
    Column("currency", "string", "Currency of amount.", unit="ISO 4217"),
    Column("line_count", "long", "Lines in the order.", unit="lines", minimum=0, maximum=100_000),
    Column("payment_method", "string", "How it was paid."),
    Column("card_id", "string", "The card.", personal="pseudonym"),
    Column("device_id", "string", "The device.", personal="pseudonym"),
    Column("ip_address", "string", "The address the order came from.", personal="pseudonym"),
    Column("ip_country", "string", "Country of that address, by the shop's file of ranges.", unit="ISO 3166 alpha-2"),
    Column("shipping_address", "string", "Where it was sent.", personal="pseudonym"),
    Column("country", "string", "Country it was sent to."),
    Column("is_fraud", "boolean", "The verdict, once known."),
    Column("label_known_at", "timestamp", "When the verdict became known; it counts only from then.", unit="UTC"),
    Column("updated_at", "timestamp", "When the shop last changed the row; orders corrections.", unit="UTC"),
)

_REVIEW_COLUMNS = (
    Column("review_id", "string", "The review.", nullable=False),
    Column("user_id", "string", "Who wrote it."),
    Column("item_id", "string", "What it is about.", nullable=False),
    Column("order_id", "string", "The purchase it refers to."),
    Column("review_ts", "timestamp", "When it was written.", unit="UTC", nullable=False),
    Column("rating", "int", "Stars.", unit="1 to 5", minimum=1, maximum=5),
    Column("title", "string", "Its headline.", personal="free_text"),
    Column("text", "string", "Its text.", personal="free_text"),
    Column("language", "string", "Language of the text.", unit="ISO 639-1"),
    Column("is_fake", "boolean", "The verdict, once known."),
    Column("label_known_at", "timestamp", "When the verdict became known; it counts only from then.", unit="UTC"),
    Column("updated_at", "timestamp", "When the shop last changed the row; orders corrections.", unit="UTC"),
)

_EVENT_SUMS = ("quantity", "quantity * unit_price")

RAW_EVENTS = Dataset(
    "events", "bronze", "Views, carts, purchases and returns as delivered, typed and pseudonymised.",
    _EVENT_COLUMNS + _LINEAGE, primary_key=("event_id",), owner="events", version_by=("updated_at",),
    sums=_EVENT_SUMS, required=("event_ts", "event_type", "item_id"),
)
RAW_ITEMS = Dataset(
    "items", "bronze", "Products as delivered.", _ITEM_COLUMNS + _LINEAGE, primary_key=("item_id",), owner="items",
    version_by=("updated_at",), required=("item_id",),
)
RAW_USERS = Dataset(
    "users", "bronze", "Shoppers as delivered, personal columns pseudonymised or encrypted.",
    _USER_COLUMNS + _LINEAGE, primary_key=("user_id",), owner="users", version_by=("updated_at",), required=("user_id",),
)
RAW_ORDERS = Dataset(
    "orders", "bronze", "Orders as delivered; labels arrive late, as corrections.", _ORDER_COLUMNS + _LINEAGE,
    primary_key=("order_id",), owner="orders", version_by=("updated_at",), sums=("amount",),
    required=("order_id", "order_ts"),
)
RAW_REVIEWS = Dataset(
    "reviews", "bronze", "Reviews as delivered, mail addresses and phone numbers in the text masked.",
    _REVIEW_COLUMNS + _LINEAGE, primary_key=("review_id",), owner="reviews", version_by=("updated_at",),
    required=("review_id", "item_id", "review_ts"),
)
BRONZE = (RAW_EVENTS, RAW_ITEMS, RAW_USERS, RAW_ORDERS, RAW_REVIEWS)


def _silver(raw: Dataset, description: str, extra: tuple[Column, ...], references: tuple[Reference, ...] = ()) -> Dataset:
    own = tuple(c for c in raw.columns if c not in _LINEAGE)
    return replace(raw, layer="silver", description=description, columns=own + extra + _LINEAGE, references=references)


EVENTS = _silver(
    RAW_EVENTS, "Clean events: one row a key, products only, prices in the shop's currency, outliers flagged.",
    (
        Column("event_date", "date", "Day of event_ts in the shop's time zone.", nullable=False),
        Column("revenue", "decimal(28,8)", "quantity x unit_price of purchases and returns; 0 for views and carts.",
               unit="shop currency"),
        Column("is_outlier", "boolean", "Quantity or price beyond the stated robust rule; kept, capped by models.",
               nullable=False),
        Column("filled", "array<string>", "Columns that were missing and filled by a stated default.", nullable=False),
    ),
    references=(Reference("item_id", "silver.items", "item_id"), Reference("user_id", "silver.users", "user_id")),
)
ITEMS = _silver(
    RAW_ITEMS, "Clean products, one row a key and night in which it was delivered.",
    (Column("title_normalised", "string", "Title in NFKC, lower case, one space between words."),),
)
USERS = _silver(RAW_USERS, "Clean shoppers, one row a key and night in which it was delivered.", ())
ORDERS = _silver(
    RAW_ORDERS, "Clean orders, one row a key and night in which it was delivered.",
    (
        Column("order_date", "date", "Day of order_ts in the shop's time zone.", nullable=False),
        Column("is_cancellation", "boolean", "The order takes back an earlier one.", nullable=False),
    ),
)
REVIEWS = _silver(
    RAW_REVIEWS, "Clean reviews.",
    (Column("text_normalised", "string", "Text in NFKC, control characters removed, one space between words."),),
    references=(Reference("item_id", "silver.items", "item_id"),),
)
SILVER = (EVENTS, ITEMS, USERS, ORDERS, REVIEWS)

LIVE_EVENTS = replace(
    EVENTS, name="live_events", description="Clean events as the stream brought them, between nights; the night's own delivery stays the truth.",
    columns=(*EVENTS.columns, Column("batch", "long", "Micro-batch that brought it.", nullable=False, minimum=0)), required=(),
)

DAILY_SALES = Dataset(
    "daily_sales", "gold", "What a night added to the sales of each item, day and country. Sum over nights up to a date.",
    (
        Column("sale_date", "date", "Day of the sale in the shop's time zone.", nullable=False),
        Column("item_id", "string", "The product.", nullable=False),
        Column("country", "string", "Where it went; 'unknown' where the shop does not say.", nullable=False),
        Column("units_sold", "long", "Units sold; negative where a correction takes some back.", unit="units"),
        Column("units_returned", "long", "Units taken back; negative where a correction says fewer.", unit="units"),
        Column("revenue_sold", "decimal(28,8)", "Value of sales.", unit="shop currency"),
        Column("revenue_returned", "decimal(28,8)", "Value of returns, positive.", unit="shop currency"),
        Column("order_count", "long", "Orders with a sale of it, as the night changed them.", unit="orders"),
    ),
    primary_key=("sale_date", "item_id", "country"), owner="events",
    sums=("units_sold", "units_returned", "revenue_sold", "revenue_returned"),
)

FEATURES = Dataset(
    "features", "gold",
    "Each known shopper's history as of the night, corrections applied: the input of training. Lists are parallel, oldest first.",
    (
        Column("user_id", "string", "The shopper.", nullable=False),
        Column("country", "string", "Newest known country."),
        Column("signed_up_at", "timestamp", "When the account was opened, where known.", unit="UTC"),
        Column("item_ids", "array<string>", "What each event was about.", nullable=False),
        Column("event_types", "array<string>", "view, cart, purchase or return.", nullable=False),
        Column("event_times", "array<long>", "When.", unit="seconds since 1970-01-01 UTC", nullable=False),
        Column("quantities", "array<float>", "Units, outliers capped.", unit="units", nullable=False),
        Column("unit_prices", "array<float>", "Price of a unit.", unit="shop currency", nullable=False),
    ),
    primary_key=("user_id",), owner="events",
)

QUALITY = Dataset(
    "quality", "gold", "The gate's findings of a night, one row an expectation.",
    (
        Column("dataset", "string", "What was judged.", nullable=False),
        Column("expectation", "string", "Name of the expectation or business rule.", nullable=False),
        Column("column", "string", "The column, where it is about one."),
        Column("severity", "string", "What a failure means.", nullable=False, allowed=("critical", "warning", "info")),
        Column("success", "boolean", "Whether it held.", nullable=False),
        Column("observed", "string", "What was seen."),
        Column("expected", "string", "What was asked for."),
        Column("unexpected_rows", "long", "Rows that broke it.", unit="rows", minimum=0),
        Column("checked_rows", "long", "Rows looked at.", unit="rows", minimum=0),
        Column("examples", "string", "A few offending values without personal data, as JSON."),
    ),
    primary_key=("dataset", "expectation", "column"),
)

EVALUATION = Dataset(
    "evaluation", "gold", "Quality of every model and baseline judged in a night, on the same frozen holdout.",
    (
        Column("model", "string", "Model or baseline.", nullable=False),
        Column("model_version", "string", "Registry version, where it has one."),
        Column("slice", "string", "'all', or dimension=value.", nullable=False),
        Column("metric", "string", "Name; higher is better unless it says 'loss'.", nullable=False),
        Column("value", "double", "The measurement.", nullable=False),
        Column("low", "double", "Lower end of the 95 % bootstrap interval over users."),
        Column("high", "double", "Upper end of it."),
        Column("users", "long", "Users behind it.", unit="users", minimum=0),
    ),
    primary_key=("model", "slice", "metric"),
)

RECOMMENDATIONS = Dataset(
    "recommendations", "gold", "What to show each known shopper and each stranger (by country, then to anyone), best first.",
    (
        Column("audience", "string", "user, country or everyone.", nullable=False, allowed=("user", "country", "everyone")),
        Column("audience_id", "string", "The user_id, the country, or '*'.", nullable=False),
        Column("rank", "int", "Place, from 1.", nullable=False, minimum=1),
        Column("item_id", "string", "The product.", nullable=False),
        Column("score", "double", "Higher is better; comparable within one audience_id only.", nullable=False),
        Column("reason", "string", "Why, as the model's own evidence has it.", nullable=False),
        Column("model_name", "string", "Registered model that answered.", nullable=False),
        Column("model_version", "string", "Its version.", nullable=False),
    ),
    primary_key=("audience", "audience_id", "rank"), owner="recommendations",
    references=(Reference("item_id", "silver.items", "item_id"),),
)

ONBOARDING = Dataset(
    "onboarding", "gold", "What to ask a newcomer, the most telling question first: 'do you like this product?'",
    (
        Column("rank", "int", "Place, from 1.", nullable=False, minimum=1),
        Column("item_id", "string", "The product asked about.", nullable=False),
        Column("title", "string", "Its newest title."),
        Column("explained", "double", "Share of the variance of all likings that is known after this answer and those before it.",
               nullable=False, minimum=0, maximum=1),
        Column("liked", "double", "Share of shoppers with a history who bought it.", nullable=False, minimum=0, maximum=1),
    ),
    primary_key=("rank",), owner="recommendations",
    references=(Reference("item_id", "silver.items", "item_id"),),
)

DRIFT = Dataset(
    "drift", "gold", "How tonight's data, publications and labels compare with the nights before, one row a test.",
    (
        Column("kind", "string", "What drifted.", nullable=False, allowed=("feature", "prediction", "concept")),
        Column("feature", "string", "dataset.column, or what is watched of a product.", nullable=False),
        Column("test", "string", "The test.", nullable=False),
        Column("statistic", "double", "Its statistic.", nullable=False),
        Column("p_value", "double", "Its p-value.", nullable=False, minimum=0, maximum=1),
        Column("q_value", "double", "The same among all tests of the night (Benjamini-Hochberg).", nullable=False, minimum=0, maximum=1),
        Column("effect", "double", "Size of the shift: population stability index, or a share.", nullable=False),
        Column("least", "double", "From this effect on a shift counts.", nullable=False),
        Column("drifted", "boolean", "Significant and large enough: an alarm.", nullable=False),
        Column("now", "string", "What is seen tonight.", nullable=False),
        Column("before", "string", "What was seen in the reference.", nullable=False),
        Column("rows_now", "long", "Independent rows of tonight.", unit="rows", minimum=0),
        Column("rows_before", "long", "Independent rows of the reference.", unit="rows", minimum=0),
    ),
    primary_key=("feature", "test"),
)

RETRAINING = Dataset(
    "retraining", "gold", "What was decided about training each model in a night, and why.",
    (
        Column("model", "string", "Kind of model.", nullable=False),
        Column("action", "string", "What is done.", nullable=False, allowed=("skip", "fine_tune", "retrain")),
        Column("why", "string", "Every reason, the deciding one first.", nullable=False),
        Column("inputs", "string", "Digest of what a training of the night is made from.", nullable=False),
        Column("order_id", "string", "The order that was followed, where there was one."),
        Column("evidence", "string", "All that the decision rests on, as JSON.", nullable=False),
    ),
    primary_key=("model",), owner="recommendations",
)

EXPOSURES = Dataset(
    "exposures", "gold", "Who was first shown which arm of which experiment in a night's exposure log.",
    (
        Column("experiment", "string", "Its name in shop.yaml.", nullable=False),
        Column("unit_id", "string", "The shopper's key in the shop.", nullable=False),
        Column("arm", "string", "The arm, as the salted hash gives it.", nullable=False),
        Column("exposed_at", "timestamp", "First show of the night.", unit="UTC", nullable=False),
        Column("shows", "long", "Lines of the log behind it.", unit="lines", nullable=False, minimum=1),
    ),
    primary_key=("experiment", "unit_id"), owner="recommendations", sums=("shows",),
)

SHOWN = Dataset(
    "shown", "gold", "The first list that each shopper was shown in a night's exposure log, and how likely it was.",
    (
        Column("unit_id", "string", "The shopper's key in the shop.", nullable=False),
        Column("shown_at", "timestamp", "When.", unit="UTC", nullable=False),
        Column("items", "array<string>", "The list, best first.", nullable=False),
        Column("propensity", "double", "Chance that it was this list; null where whoever showed it does not know.", minimum=0, maximum=1),
    ),
    primary_key=("unit_id",), owner="recommendations",
)

EXPERIMENTS = Dataset(
    "experiments", "gold", "What each experiment shows as of a night, one row a metric and treatment; states are in the manifest's notes.",
    (
        Column("experiment", "string", "Its name in shop.yaml.", nullable=False),
        Column("status", "string", "Where it stands.", nullable=False,
               allowed=("running", "won", "harmed", "no_difference", "inconclusive", "invalid")),
        Column("arm", "string", "The treatment.", nullable=False),
        Column("metric", "string", "What is compared.", nullable=False),
        Column("role", "string", "What it is for.", nullable=False, allowed=("metric", "guardrail")),
        Column("units", "long", "Shoppers of the treatment whose span is over.", unit="shoppers", minimum=0),
        Column("control", "double", "The control's mean, adjusted for what shoppers did before."),
        Column("treatment", "double", "The treatment's, likewise."),
        Column("change", "double", "Relative to the control; better is positive."),
        Column("low", "double", "Lower end of the confidence sequence of the change."),
        Column("high", "double", "Upper end of it."),
        Column("p_value", "double", "Of no change; valid however often one looks.", minimum=0, maximum=1),
    ),
    primary_key=("experiment", "arm", "metric", "role"), owner="recommendations",
)

SCREENED = ("order", "account", "review", "brushing")
"""What is screened; brushing is the sales and praise of one product on one day."""

SCREENING_FEEDBACK = Dataset(
    "screening_feedback", "gold", "Verdicts of analysts and reports of shoppers that came in with a night.",
    (
        Column("kind", "string", "What the verdict is about.", nullable=False, allowed=SCREENED),
        Column("id", "string", "Which: order_id, user_id, review_id, or item_id/day.", nullable=False),
        Column("is_bad", "boolean", "Fraud, fake, or not.", nullable=False),
        Column("known_at", "timestamp", "When it became known; it counts only from then.", unit="UTC", nullable=False),
        Column("said_by", "string", "Who says so.", nullable=False),
        Column("source", "string", "analyst counts before shopper.", nullable=False, allowed=("analyst", "shopper")),
        Column("why", "string", "In their words.", personal="free_text"),
    ),
    primary_key=("kind", "id", "source"), owner="risk",
)

SCREENING_FEATURES = Dataset(
    "screening_features", "gold",
    "What each order, account, review and product's day looked like at its moment, with the verdicts known by the night. The manifest's "
    "notes name the parts of the lists.",
    (
        Column("kind", "string", "What it is.", nullable=False, allowed=SCREENED),
        Column("id", "string", "Which: order_id, user_id, review_id, or item_id/day.", nullable=False),
        Column("at", "timestamp", "Its moment.", unit="UTC", nullable=False),
        Column("first_night", "date", "The night that first delivered it.", nullable=False),
        Column("stake", "double", "What is at stake.", unit="shop currency"),
        Column("is_bad", "boolean", "The verdict, where one was known by the night."),
        Column("known_at", "timestamp", "When it became known.", unit="UTC"),
        Column("entities", "array<string>", "Who and what took part: shopper, device, card and the like.", nullable=False),
        Column("categories", "array<string>", "Its categories.", nullable=False),
        Column("text", "string", "A review's text, normalised.", personal="free_text"),
        Column("values", "array<float>", "Its features; NaN where unknown.", nullable=False),
    ),
    primary_key=("kind", "id"), owner="risk",
)

SCREENING_DECISIONS = Dataset(
    "screening_decisions", "gold", "What to do with each order, account, review and product's day that came in, and why.",
    (
        Column("kind", "string", "What it is.", nullable=False, allowed=SCREENED),
        Column("id", "string", "Which: order_id, user_id, review_id, or item_id/day.", nullable=False),
        Column("at", "timestamp", "Its moment.", unit="UTC", nullable=False),
        Column("score", "double", "Higher is more suspicious; comparable within a kind and model version.", nullable=False, minimum=0, maximum=1),
        Column("probability", "double", "Calibrated; null where no verdicts were known to learn from.", minimum=0, maximum=1),
        Column("decision", "string", "What to do.", nullable=False, allowed=("allow", "review", "block")),
        Column("reasons", "array<string>", "The strongest ones, in words.", nullable=False),
        Column("rule", "string", "cost: the thresholds; blocklist: an entry holds; verdict: it is known.", nullable=False,
               allowed=("cost", "blocklist", "verdict")),
        Column("threshold", "double", "Value from which a row is looked at.", nullable=False),
        Column("block_threshold", "double", "Value from which it is blocked; above 1 is never.", nullable=False),
        Column("model_name", "string", "Registered model that answered.", nullable=False),
        Column("model_version", "string", "Its version.", nullable=False),
    ),
    primary_key=("kind", "id"), owner="risk",
)

SCREENING_EVALUATION = replace(
    EVALUATION, name="screening_evaluation", owner="risk",
    description="Quality of every screener and baseline judged in a night, on the same later rows.",
)

SCREENING = (SCREENING_FEEDBACK, SCREENING_FEATURES, SCREENING_EVALUATION, SCREENING_DECISIONS)

SALES_SERIES = Dataset(
    "sales_series", "gold",
    "Sales of every item, category and country and of the whole shop on a complete calendar, as known on the night: the input of forecasts.",
    (
        Column("freq", "string", "D: days; W: whole weeks from Monday; MS: whole months.", nullable=False, allowed=("D", "W", "MS")),
        Column("level", "string", "What is summed.", nullable=False, allowed=("total", "category", "country", "item")),
        Column("series_id", "string", "The category, country or item; '*' for the total.", nullable=False),
        Column("category", "string", "The item's newest category, 'unknown' where it has none; null at the other levels."),
        Column("sale_date", "date", "The day, or the first day of the week or month, in the shop's time zone.", nullable=False),
        Column("status", "string", "open; closed: the whole shop sold nothing; missing: nobody knows, the day was not delivered or let through.",
               nullable=False, allowed=("open", "closed", "missing")),
        Column("units", "long", "Units sold; a return takes back the newest sales before it. Null where missing.", unit="units"),
        Column("demand", "double", "Units without outliers: what forecasts learn from. Null where missing or out of stock.", unit="units"),
        Column("revenue", "decimal(28,8)", "Value of sales less value of returns of the day. Null where missing.", unit="shop currency"),
        Column("unit_price", "double", "Mean price charged, the newest known one where nothing was sold; not known in advance.", unit="shop currency", minimum=0),
        Column("on_promotion", "boolean", "Sold at 5 % or more below list price; null where either is not known. Not known in advance."),
        Column("stocked_out", "boolean", "Could not be bought, says the catalogue, or did not sell for so long between sales that chance hardly explains it.",
               nullable=False),
        Column("holiday", "boolean", "Public holiday of the country, or of the shop's at the other levels; known in advance.", nullable=False),
    ),
    primary_key=("freq", "level", "series_id", "sale_date"), owner="forecasts", sums=("units", "revenue"),
)

FORECAST_EVALUATION = replace(
    EVALUATION, name="forecast_evaluation", owner="forecasts",
    description="Quality of the new forecaster, the champion and the baselines on the same rolling origins, over series.",
    columns=tuple(replace(c, description=c.description.replace("over users", "over series").replace("Users behind", "Series behind"),
                          unit=c.unit.replace("users", "series")) for c in EVALUATION.columns),
)

FORECASTS = Dataset(
    "forecasts", "gold", "Expected sales of the days after the night. Items add up to categories, categories and countries to the total, to the last digit.",
    (
        Column("level", "string", "What is forecast.", nullable=False, allowed=("total", "category", "country", "item")),
        Column("series_id", "string", "The category, country or item; '*' for the total.", nullable=False),
        Column("forecast_date", "date", "The day, in the shop's time zone.", nullable=False),
        Column("mean", "decimal(18,2)", "Point forecast.", unit="units", nullable=False, minimum=0),
        Column("probabilities", "array<double>", "Of the quantiles, ascending.", unit="share", nullable=False),
        Column("quantiles", "array<double>", "Sales stay at or below each with its probability.", unit="units", nullable=False),
        Column("model", "string", "What the forecast was made of.", nullable=False),
        Column("model_name", "string", "Registered model that answered.", nullable=False),
        Column("model_version", "string", "Its version.", nullable=False),
    ),
    primary_key=("level", "series_id", "forecast_date"), owner="forecasts",
)

REORDERS = Dataset(
    "reorders", "gold", "How many of each item should be in stock or on order from the night on, for the shop's service level and lead time.",
    (
        Column("item_id", "string", "The product.", nullable=False),
        Column("category", "string", "Its category."),
        Column("lead_days", "int", "Days until an order arrives.", unit="days", nullable=False, minimum=1),
        Column("service_level", "double", "Probability with which the stock lasts until then.", unit="share", nullable=False, minimum=0, maximum=1),
        Column("expected_units", "double", "Expected sales over the lead time.", unit="units", nullable=False, minimum=0),
        Column("order_up_to", "long", "Order what stock and open orders fall short of this. Nothing here knows the stock.", unit="units", nullable=False, minimum=0),
        Column("stocked_out", "boolean", "Whether it could not be bought on the night.", nullable=False),
        Column("model_version", "string", "Version of the forecaster.", nullable=False),
    ),
    primary_key=("item_id",), owner="forecasts",
)
GOLD = (
    DAILY_SALES, FEATURES, QUALITY, EVALUATION, RECOMMENDATIONS, ONBOARDING, DRIFT, RETRAINING, EXPOSURES, SHOWN, EXPERIMENTS,
    SALES_SERIES,
    FORECAST_EVALUATION, FORECASTS, REORDERS, *SCREENING,
)

ALL = (*BRONZE, *SILVER, LIVE_EVENTS, *GOLD)
ENTITIES = tuple(d.name for d in BRONZE)
"""Names a shop maps its sources to: events, items, users, orders, reviews."""


def dataset(dataset_id: str) -> Dataset:
    """The dataset with id 'layer.name'. Raises KeyError that lists the known ids."""
    for d in ALL:
        if d.id == dataset_id:
            return d
    raise KeyError(f"no dataset {dataset_id!r}; there are {', '.join(d.id for d in ALL)}")


def raw_of(entity: str) -> Dataset:
    return dataset(f"bronze.{entity}")


def clean_of(entity: str) -> Dataset:
    return dataset(f"silver.{entity}")


QUARANTINE_COLUMNS = (
    Column("reason", "string", "Reason code of the rejection.", nullable=False),
    Column("detail", "string", "The column and rule, without the value."),
    Column("source_file", "string", "Name of the delivered file or table.", nullable=False),
    Column("source_row", "long", "Position of the row in that file.", nullable=False),
    Column("delivered_on", "date", "The night that delivered it.", nullable=False),
    Column("record", "string", "The row as JSON; encrypted where it was rejected before pseudonymisation.", nullable=False),
)
"""Beside every bronze and silver partition: its rejected rows, so that rows in = rows out + quarantined."""
