  // Once every question has been answered the LMS is told how many answers were right, in hundredths.
  addEventListener("longhaul:score", ({ detail }) => {
    if (!open) return;
    api.LMSSetValue("cmi.core.score.min", "0");
    api.LMSSetValue("cmi.core.score.max", "100");
    api.LMSSetValue("cmi.core.score.raw", String(Math.round(detail * 100)));
    api.LMSCommit("");
  });
