"use strict";
(() => {
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  // contents: the section that is read is marked; folded where they are not beside the text
  const links = all("nav.contents a");
  const headings = links.map((link) => document.getElementById(link.hash.slice(1)));
  const follow = () => {
    const passed = headings.filter((heading) => heading.getBoundingClientRect().top < innerHeight * 0.3).length;
    links.forEach((link, i) => link.toggleAttribute("aria-current", i === Math.max(0, passed - 1)));
  };
  const watching = new IntersectionObserver(follow, { rootMargin: "0px 0px -70% 0px" });
  headings.forEach((heading) => watching.observe(heading));
  const contents = document.querySelector("nav.contents details");
  if (matchMedia("(max-width: 1199px)").matches) contents.open = false;

  // tables: headings are reached and pressed with the keyboard
  all("table.sortable thead th:not(.no-sort)").forEach((heading) => {
    heading.tabIndex = 0;
    heading.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      heading.click();
    });
  });

  // figures of single methods: one is shown, and chosen by its name
  all(".curves[data-choice]").forEach((curves) => {
    const figures = [...curves.children];
    const select = document.createElement("select");
    figures.forEach((figure, i) => select.add(new Option(figure.dataset.name, i)));
    const choose = () => figures.forEach((figure, i) => { figure.hidden = i !== Number(select.value); });
    select.addEventListener("change", choose);
    choose();
    const label = document.createElement("label");
    label.append("Method: ", select);
    label.className = "choice";
    curves.before(label);
  });

  // print: everything is open
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = all("details:not([open])");
    closed.forEach((block) => { block.open = true; });
  });
  addEventListener("afterprint", () => closed.forEach((block) => { block.open = false; }));
})();
