"""A headless Chromium, driven through two pipes: the DevTools protocol is JSON messages that end in a zero byte."""
import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# The browser reads file 3 and writes file 4: two pipes get these numbers, first copied out of each other's way.
LAUNCH = """import os, sys
for fd, copy in enumerate([os.dup(int(pipe)) for pipe in sys.argv[1:3]], 3):
    os.dup2(copy, fd)
    os.set_inheritable(fd, True)
os.execv(sys.argv[3], sys.argv[3:])"""


class Page:
    """One file or address in the browser. `events` are all messages that came unasked: requests, exceptions, the
    console's."""

    def __init__(self, path, folder, width=1000, height=900):
        """path: of the file, or an address; folder: an empty one for the browser's own things."""
        ours, theirs = os.pipe(), os.pipe()                # what the browser reads, and what it writes
        self.browser = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, str(ours[0]), str(theirs[1]), CHROMIUM, "--headless", "--no-sandbox",
             "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe", f"--user-data-dir={folder}"],
            pass_fds=(ours[0], theirs[1]), stderr=subprocess.DEVNULL)
        os.close(ours[0])
        os.close(theirs[1])
        self.write_to, self.read_from, self.rest = ours[1], theirs[0], b""
        self.number, self.session, self.events = 0, None, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.address = path if isinstance(path, str) else path.resolve().as_uri()
        self.open(width, height)

    def open(self, width=1000, height=900):
        """The page as one finds it, in a window of this size; the pointer is in its corner."""
        self.resize(width, height)
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=0, y=0)
        self.run("document.body.dataset.ready = 'no'")     # of what is shown until now
        self.call("Page.navigate", url=self.address)
        self.wait("document.body?.dataset.ready === 'yes'")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.browser.kill()
        self.browser.wait()
        os.close(self.write_to)
        os.close(self.read_from)

    def message(self):
        deadline = time.monotonic() + 60
        while b"\0" not in self.rest:
            if not select.select([self.read_from], [], [], deadline - time.monotonic())[0]:
                raise TimeoutError("the browser says nothing")
            part = os.read(self.read_from, 1 << 16)
            if not part:
                raise RuntimeError("the browser has gone")
            self.rest += part
        line, _, self.rest = self.rest.partition(b"\0")
        return json.loads(line)

    def call(self, method, **parameters):
        self.number += 1
        message = dict(id=self.number, method=method, params=parameters)
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self.write_to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.message()
            if answer.get("id") == self.number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self.events.append(answer)

    def run(self, script):
        """The value of an expression of JavaScript."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, condition):
        deadline = time.monotonic() + 60
        while not self.run(condition):
            assert time.monotonic() < deadline, condition
            time.sleep(0.02)

    def resize(self, width, height, dark=False):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                  mobile=width < 500)
        scheme = dict(name="prefers-color-scheme", value="dark" if dark else "light")
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def middle(self, selector):
        """Where the middle of an element is, scrolled into view."""
        return self.run(f"""(() => {{
            const element = document.querySelector({json.dumps(selector)});
            element.scrollIntoView({{block: "center"}});
            const box = element.getBoundingClientRect();
            return {{x: box.x + box.width / 2, y: box.y + box.height / 2}};
        }})()""")

    def hover(self, selector):
        self.call("Input.dispatchMouseEvent", type="mouseMoved", **self.middle(selector))

    def tap(self, selector):
        self.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[self.middle(selector)])
        self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def press(self, key, code):
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def bottom(self, selector):
        """Of the lowest of the elements that are there, in pixels of the window, as it opens."""
        self.run("scrollTo(0, 0)")
        return self.run(f"Math.max(...[...document.querySelectorAll({json.dumps(selector)})].map("
                        "x => x.getBoundingClientRect()).filter(x => x.width).map(x => x.bottom))")

    def controls(self):
        """[id, description for screen readers] of each control that is seen, but words, targets and steps to choose."""
        return self.run("""[...document.querySelectorAll("input, select, textarea, summary, button")].filter(x =>
            x.checkVisibility() && !x.closest(".words, .tabs, .strip")).map(x => [x.id, x.ariaDescription])""")

    def names(self, *roles):
        """The accessible names of what has one of these roles, as a screen reader says them."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        return [node["name"]["value"] for node in nodes if not node["ignored"] and node["role"]["value"] in roles]

    def screenshot(self, path):
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        picture = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=dict(size, scale=1))
        path.write_bytes(base64.b64decode(picture["data"]))
