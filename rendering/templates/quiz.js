(() => {
  "use strict";
  const quiz = document.querySelector(".quiz");
  const { answers, check, right, wrong, score } = JSON.parse(document.getElementById("data").textContent);
  const questions = [...quiz.querySelectorAll(".questions > li")];
  const results = new Map();
  const make = (name, words, kind) => {
    const made = document.createElement(name);
    made.textContent = words;
    if (kind) made.className = kind;
    return made;
  };

  // Every option becomes a radio button with its own words for a label.
  const choices = (list, number, labelled) => [...list.children].map((item) => {
    const label = document.createElement("label");
    const choice = document.createElement("input");
    choice.type = "radio";
    choice.name = `question-${number}`;
    label.append(choice, make("span", item.textContent));
    item.replaceChildren(label);
    list.setAttribute("role", "radiogroup");
    list.setAttribute("aria-labelledby", labelled);
    item.setAttribute("role", "presentation");
    return choice;
  });

  const total = make("p", "", "score");
  total.setAttribute("role", "status");
  questions.forEach((question, number) => {
    const options = choices(question.querySelector(".options"), number, question.querySelector("p").id);
    const answer = question.querySelector("details");
    const button = make("button", check);
    const said = make("span", "", "said");
    said.setAttribute("role", "status");
    button.type = "button";
    button.disabled = true;
    answer.hidden = true;
    answer.before(button, said);
    options.forEach((option) => option.addEventListener("change", () => { button.disabled = results.has(number); }));
    button.addEventListener("click", () => {
      const chosen = options.findIndex((option) => option.checked);
      if (chosen < 0 || results.has(number)) return;
      results.set(number, chosen === answers[number]);
      // The first answer counts. What was chosen stays to be seen.
      options.forEach((option) => { option.disabled = true; });
      button.disabled = true;
      said.textContent = results.get(number) ? right : wrong;
      answer.hidden = false;
      answer.open = true;
      if (results.size < answers.length) return;
      const count = [...results.values()].filter(Boolean).length;
      total.textContent = score.replace("{right}", String(count)).replace("{total}", String(answers.length));
      dispatchEvent(new CustomEvent("longhaul:score", { detail: count / answers.length }));
    });
  });
  quiz.append(total);
})();
