//! What a function says that is to become a message: its receiver, its arguments, what it returns.
//!
//! Everything that cannot travel is refused here, for all macros, at the token that says it. Whether a *type* can be
//! written by serde is not known here: rustc says that, at the same token.

use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, format_ident, quote};
use syn::visit::Visit;
use syn::{
    AngleBracketedGenericArguments, FnArg, GenericArgument, GenericParam, Pat, PathArguments, PathSegment, ReturnType,
    Type, TypeImplTrait, TypeParamBound, TypePath,
};

use crate::errors::Errors;

/// Whose signature it is: what a user is told depends on it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Of {
    Constructor,
    Method,
    Function,
}

/// A signature of which everything can travel.
pub(crate) struct Signature {
    pub(crate) ident: Ident,
    pub(crate) is_async: bool,
    /// Whether it takes `&mut self`, when it takes a receiver at all.
    pub(crate) exclusive: Option<bool>,
    /// In the order in which they were written.
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) returns: Returns,
}

#[expect(clippy::large_enum_variant, reason = "a signature has a few, for a moment")]
pub(crate) enum Parameter {
    /// `ctx: &Context<Self>`.
    Context,
    /// What travels.
    Value(Argument),
}

pub(crate) struct Argument {
    pub(crate) ident: Ident,
    pub(crate) ty: Type,
}

pub(crate) enum Returns {
    Value(Type),
    /// The whole type, whose last segment is written `Result`.
    Result(Type),
    /// The type of the items.
    Stream(Type),
}

impl Signature {
    /// Reads the signature of an actor's method or constructor, or of a remote function.
    pub(crate) fn read(sig: &syn::Signature, of: Of) -> syn::Result<Self> {
        let mut errors = Errors::default();
        refuse_qualifiers(sig, of, &mut errors);
        let exclusive = receiver(sig, of, &mut errors);
        let parameters = parameters(sig, of, &mut errors);
        let returns = errors.take(returns(&sig.output, of));
        let (ident, is_async) = (sig.ident.clone(), sig.asyncness.is_some());
        errors.finish(returns.map(|returns| Self { ident, is_async, exclusive, parameters, returns }))
    }

    /// The arguments that travel.
    pub(crate) fn arguments(&self) -> impl Iterator<Item = &Argument> {
        self.parameters.iter().filter_map(|parameter| match parameter {
            Parameter::Value(argument) => Some(argument),
            Parameter::Context => None,
        })
    }

    /// The arguments' names.
    pub(crate) fn names(&self) -> Vec<&Ident> {
        self.arguments().map(|argument| &argument.ident).collect()
    }

    /// The arguments' types.
    pub(crate) fn types(&self) -> Vec<&Type> {
        self.arguments().map(|argument| &argument.ty).collect()
    }

    /// What to pass to the function, in its own order; `ctx` stands for the context.
    pub(crate) fn pass(&self, ctx: &Ident) -> Vec<TokenStream> {
        let pass = |parameter: &Parameter| match parameter {
            Parameter::Context => ctx.to_token_stream(),
            Parameter::Value(argument) => argument.ident.to_token_stream(),
        };
        self.parameters.iter().map(pass).collect()
    }

    /// `.await` for a function that is async.
    pub(crate) fn dot_await(&self) -> TokenStream {
        if self.is_async { quote!(.await) } else { quote!() }
    }
}

impl Of {
    fn noun(self) -> &'static str {
        match self {
            Self::Constructor => "a constructor",
            Self::Method => "a message",
            Self::Function => "a remote function",
        }
    }

    /// What else a user can do with a function that cannot be this.
    fn or_else(self) -> &'static str {
        match self {
            Self::Method => ", or move the method to an `impl` without #[actor]",
            Self::Constructor | Self::Function => "",
        }
    }
}

/// Whether `ty` is `&Context<..>`.
pub(crate) fn is_context(ty: &Type) -> bool {
    matches!(ty, Type::Reference(reference) if last_segment(&reference.elem).is_some_and(|last| last.ident == "Context"))
}

fn refuse_qualifiers(sig: &syn::Signature, of: Of, errors: &mut Errors) {
    let noun = of.noun();
    if let Some(token) = &sig.constness {
        errors.at(token, format_args!("{noun} runs elsewhere, at run time: remove `const`"));
    }
    if let Some(token) = &sig.unsafety {
        errors.at(token, format_args!("{noun} cannot ask its caller for proofs: wrap the unsafe code in a safe `fn`"));
    }
    if let Some(abi) = &sig.abi {
        errors.at(abi, format_args!("{noun} is called by Mobula: remove `extern`"));
    }
    if let Some(variadic) = &sig.variadic {
        errors.at(variadic, format_args!("{noun} has a fixed list of arguments: take a `Vec`"));
    }
    if let Some(parameter) = sig.generics.params.first() {
        let or_else = of.or_else();
        errors.at(
            parameter,
            match parameter {
                GenericParam::Lifetime(lifetime) => {
                    let name = lifetime.lifetime.to_token_stream();
                    format!("{noun} outlives its caller, so nothing can be borrowed for `{name}`: take owned values")
                }
                GenericParam::Type(_) | GenericParam::Const(_) => {
                    let name = match parameter {
                        GenericParam::Type(parameter) => &parameter.ident,
                        GenericParam::Const(parameter) => &parameter.ident,
                        GenericParam::Lifetime(_) => &sig.ident,
                    };
                    format!(
                        "{noun} is registered under one name with one type: write a type in place of `{name}`{or_else}"
                    )
                }
            },
        );
    }
}

fn receiver(sig: &syn::Signature, of: Of, errors: &mut Errors) -> Option<bool> {
    let receiver = sig.receiver()?;
    match of {
        Of::Function => {
            errors.at(
                receiver,
                "a remote function has no state: take no `self`, or make the type an actor with #[actor]",
            );
        }
        Of::Constructor => errors.at(receiver, "`new` makes the state: take no `self`"),
        Of::Method if receiver.reference.is_none() || receiver.colon_token.is_some() => {
            errors.at(receiver, "an actor's state stays with the actor: take `&mut self` or `&self`");
        }
        Of::Method => {
            if let Some(lifetime) = receiver.lifetime() {
                errors.at(lifetime, "nothing that travels can borrow from the actor: write `&mut self` or `&self`");
            }
        }
    }
    Some(receiver.mutability.is_some())
}

fn parameters(sig: &syn::Signature, of: Of, errors: &mut Errors) -> Vec<Parameter> {
    let typed: Vec<_> = sig
        .inputs
        .iter()
        .filter_map(|input| match input {
            FnArg::Typed(typed) => Some(typed),
            FnArg::Receiver(_) => None,
        })
        .collect();
    let mut parameters = Vec::new();
    let count = typed.len();
    for (at, typed) in typed.into_iter().enumerate() {
        if of != Of::Function && is_context(&typed.ty) {
            if at != 0 && at + 1 != count {
                errors.at(typed, "the context is the first or the last argument");
            }
            parameters.push(Parameter::Context);
            continue;
        }
        let ident = match &*typed.pat {
            Pat::Ident(pat) if pat.by_ref.is_none() && pat.subpat.is_none() => pat.ident.clone(),
            Pat::Wild(_) => format_ident!("unused_{at}"),
            pattern => {
                let ty = typed.ty.to_token_stream();
                errors.at(
                    pattern,
                    format_args!("an argument that travels has a name: write `name: {ty}` and take it apart inside"),
                );
                continue;
            }
        };
        refuse_borrowed(&typed.ty, of, errors);
        parameters.push(Parameter::Value(Argument { ident, ty: (*typed.ty).clone() }));
    }
    if count > ARGUMENTS_MAX {
        errors.at(
            &sig.ident,
            format_args!("{} takes at most {ARGUMENTS_MAX} arguments: make a struct of some", of.noun()),
        );
    }
    parameters
}

/// As many as tuples have the traits for which arguments are joined.
const ARGUMENTS_MAX: usize = 12;

/// Refuses what borrows, and types that have no name, in an argument's type.
fn refuse_borrowed(ty: &Type, of: Of, errors: &mut Errors) {
    struct Borrowed<'a>(&'a mut Errors, Of);
    impl Visit<'_> for Borrowed<'_> {
        fn visit_type_reference(&mut self, reference: &syn::TypeReference) {
            let owned = owned(&reference.elem);
            let noun = self.1.noun();
            self.0.at(reference, format_args!("{noun} outlives its caller, from whom this borrows: take `{owned}`"));
        }

        fn visit_type_impl_trait(&mut self, ty: &TypeImplTrait) {
            let noun = self.1.noun();
            self.0.at(ty, format_args!("{noun} is registered with one type: write the type in place of `impl`"));
        }

        fn visit_lifetime(&mut self, lifetime: &syn::Lifetime) {
            if lifetime.ident != "static" {
                let noun = self.1.noun();
                self.0.at(lifetime, format_args!("{noun} outlives its caller: take a type that borrows nothing"));
            }
        }
    }
    Borrowed(errors, of).visit_type(ty);
}

/// What owns what a reference to `ty` borrows.
fn owned(ty: &Type) -> String {
    match ty {
        Type::Slice(slice) => format!("Vec<{}>", slice.elem.to_token_stream()),
        Type::Path(path) if path.path.is_ident("str") => "String".to_owned(),
        Type::Path(path) if path.path.is_ident("Path") => "PathBuf".to_owned(),
        other => other.to_token_stream().to_string(),
    }
}

fn returns(output: &ReturnType, of: Of) -> syn::Result<Returns> {
    let ReturnType::Type(_, ty) = output else { return Ok(Returns::Value(unit())) };
    if let Type::ImplTrait(written) = &**ty {
        return stream(written, of).map(Returns::Stream);
    }
    let mut borrowed = FindBorrowed::default();
    borrowed.visit_type(ty);
    if let Some(reference) = borrowed.reference {
        let owned = owned(&reference.elem);
        let message = format!("a reply outlives what it was made of: return `{owned}`");
        return Err(syn::Error::new_spanned(reference, message));
    }
    if let Some(nested) = borrowed.unnamed {
        return Err(syn::Error::new_spanned(nested, "a reply has one type: write it in place of `impl`"));
    }
    Ok(match last_segment(ty) {
        Some(last) if last.ident == "Result" => Returns::Result((**ty).clone()),
        _ => Returns::Value((**ty).clone()),
    })
}

#[derive(Default)]
struct FindBorrowed {
    reference: Option<syn::TypeReference>,
    unnamed: Option<TypeImplTrait>,
}

impl Visit<'_> for FindBorrowed {
    fn visit_type_reference(&mut self, reference: &syn::TypeReference) {
        self.reference.get_or_insert_with(|| reference.clone());
    }

    fn visit_type_impl_trait(&mut self, ty: &TypeImplTrait) {
        self.unnamed.get_or_insert_with(|| ty.clone());
    }
}

/// The item of `impl Stream<Item = T> + use<>`.
fn stream(written: &TypeImplTrait, of: Of) -> syn::Result<Type> {
    let item = written.bounds.iter().find_map(stream_item);
    let Some(item) = item else {
        let message = "a reply has one type: write it, or `impl Stream<Item = T> + use<>` for a stream of results";
        return Err(syn::Error::new_spanned(written, message));
    };
    let captures = written.bounds.iter().find_map(|bound| match bound {
        TypeParamBound::PreciseCapture(captures) => Some(captures),
        _ => None,
    });
    match captures {
        Some(captures) if !captures.params.is_empty() => Err(syn::Error::new_spanned(
            captures,
            "a stream is read while the actor takes its next message, so it borrows nothing: write `use<>`",
        )),
        // A function without arguments that borrow has nothing to capture.
        None if of == Of::Method => Err(syn::Error::new_spanned(
            written,
            "a stream is read while the actor takes its next message, so it must not borrow `self`: add `+ use<>`",
        )),
        _ => Ok(item),
    }
}

fn stream_item(bound: &TypeParamBound) -> Option<Type> {
    let TypeParamBound::Trait(bound) = bound else { return None };
    let last = bound.path.segments.last().filter(|last| last.ident == "Stream")?;
    let PathArguments::AngleBracketed(AngleBracketedGenericArguments { args, .. }) = &last.arguments else {
        return None;
    };
    args.iter().find_map(|argument| match argument {
        GenericArgument::AssocType(item) if item.ident == "Item" => Some(item.ty.clone()),
        _ => None,
    })
}

fn last_segment(ty: &Type) -> Option<&PathSegment> {
    match ty {
        Type::Path(TypePath { qself: None, path }) => path.segments.last(),
        Type::Group(group) => last_segment(&group.elem),
        Type::Paren(paren) => last_segment(&paren.elem),
        _ => None,
    }
}

fn unit() -> Type {
    syn::parse_quote!(())
}
