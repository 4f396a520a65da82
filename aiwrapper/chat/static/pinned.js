// Keeping the end of the conversation in sight while it grows, unless the reader has scrolled away from it.

const NEAR_PX = 48;

export class Pinned {
  #scroller;
  #toEnd;
  #pinned = true;

  constructor(scroller, toEnd) {
    this.#scroller = scroller;
    this.#toEnd = toEnd;
    scroller.addEventListener("scroll", () => this.#look(), { passive: true });
    toEnd.addEventListener("click", () => {
      this.toEnd();
      scroller.focus({ preventScroll: true });
    });
    new ResizeObserver(() => this.update()).observe(scroller);
  }

  #look() {
    const { scrollTop, scrollHeight, clientHeight } = this.#scroller;
    this.#pinned = scrollHeight - clientHeight - scrollTop < NEAR_PX;
    this.#toEnd.hidden = this.#pinned;
  }

  /** After the content has changed. */
  update() {
    if (this.#pinned) this.#scroller.scrollTop = this.#scroller.scrollHeight;
    else this.#look();
  }

  toEnd() {
    this.#pinned = true;
    this.update();
  }
}
