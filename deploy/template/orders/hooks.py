"""Functions of compute steps."""

from slugify import slugify


def links(order: dict[str, object]) -> dict[str, str]:
    """The address of an order's page in the shop."""
    return {"page": f"/orders/{order['id']}-{slugify(str(order['title']))}"}
