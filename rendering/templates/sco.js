(() => {
  "use strict";
  const FARTHEST = 10;

  // The LMS offers its API in a frame above this one, or in the window that opened it. Opened by hand there is none.
  const above = (frame) => {
    for (let step = 0; step < FARTHEST && frame; step += 1) {
      try {
        if (frame.API) return frame.API;
      } catch {
        return null; // a frame of somebody else's
      }
      if (frame.parent === frame) return null;
      frame = frame.parent;
    }
    return null;
  };
  const api = above(window) || above(window.opener);
  if (!api || String(api.LMSInitialize("")) !== "true") return;

  const began = Date.now();
  let done = ["completed", "passed"].includes(api.LMSGetValue("cmi.core.lesson_status"));
  let open = true;
  const two = (number) => String(Math.floor(number)).padStart(2, "0");
  const timespan = (seconds) =>
    `${two(Math.min(seconds / 3600, 9999)).padStart(4, "0")}:${two((seconds / 60) % 60)}:${two(seconds % 60)}`;

  const complete = () => {
    if (done || !open) return;
    done = true;
    api.LMSSetValue("cmi.core.lesson_status", "completed");
    api.LMSCommit("");
  };
  const finish = () => {
    if (!open) return;
    open = false;
    api.LMSSetValue("cmi.core.session_time", timespan((Date.now() - began) / 1000));
    api.LMSSetValue("cmi.core.exit", done ? "" : "suspend");
    api.LMSCommit("");
    api.LMSFinish("");
  };

  if (!done) {
    api.LMSSetValue("cmi.core.lesson_status", "incomplete");
    api.LMSCommit("");
  }
  // A lesson is completed once its end has been on the screen.
  const end = document.querySelector("main").appendChild(document.createElement("div"));
  end.style.height = "1px";
  new IntersectionObserver((seen) => seen.some((entry) => entry.isIntersecting) && complete()).observe(end);
  addEventListener("pagehide", finish);
  addEventListener("beforeunload", finish);
})();
