"""The host's door. Importable without ComfyUI: nothing of it is touched before the host calls."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    from .nodes import AsymVQExtension

    return AsymVQExtension()
