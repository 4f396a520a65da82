// The settings of a chat: model, instructions, tools.

import { element } from "./dom.js";

const dialog = document.getElementById("settings");
const model = document.getElementById("model");
const instructions = document.getElementById("instructions");
const tools = document.getElementById("tools");

/**
 * Let a person change the settings.
 *
 * `settings` is what holds now (`tools` of null: all of them), `options` what there is to choose from. Resolves to the new settings, or to null if
 * nothing is to be changed.
 */
export function askForSettings(settings, options) {
  model.replaceChildren(
    element("option", { value: "", textContent: "The usual one" }),
    ...options.models.map((name) => element("option", { value: name, textContent: name })),
  );
  model.value = settings.model ?? "";
  model.hidden = model.labels[0].hidden = options.models.length === 0;
  instructions.value = settings.instructions;
  const boxes = options.tools.map((name) =>
    element("input", { type: "checkbox", value: name, checked: settings.tools?.includes(name) ?? true }),
  );
  const labels = boxes.map((box) => element("label", { class: "check" }, box, element("code", { textContent: box.value })));
  tools.replaceChildren(tools.firstElementChild, ...labels);
  tools.hidden = boxes.length === 0;
  return answerOf(dialog).then((answer) =>
    answer !== "save"
      ? null
      : {
          model: model.value || null,
          instructions: instructions.value,
          tools: boxes.filter((box) => box.checked).map((box) => box.value),
        },
  );
}

/** Whether the person wants the chat deleted. */
export function askForDeletion() {
  return answerOf(document.getElementById("confirm-delete")).then((answer) => answer === "delete");
}

/** Show a dialog; resolves to the value of the button that closed it. */
function answerOf(shown) {
  shown.returnValue = "";
  shown.showModal();
  return new Promise((resolve) => {
    shown.addEventListener("close", () => resolve(shown.returnValue), { once: true });
  });
}
