"""Routes in Python, beside the document's endpoints."""

from fastapi import APIRouter

router = APIRouter()


@router.get("/shop")
async def shop() -> dict[str, str]:
    """What this gateway is for."""
    return {"name": "orders"}
