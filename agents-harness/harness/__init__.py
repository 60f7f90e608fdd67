"""Agents on Gemini, through the gateway."""

from .client import gemini_flash, gemini_pro

__all__ = ["gemini_flash", "gemini_pro"]
